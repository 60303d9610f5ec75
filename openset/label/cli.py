"""`openset label`: find labels in many pictures and write them as data sets, drawn pictures and a report."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openset.answerer import NoAnswers, open_answerer
from openset.command_options import DETECTION_OPTIONS, given
from openset.file_systems import is_address
from openset.images import read_regular
from openset.label.detector import Detector, ModelDetector
from openset.label.drawn import draw_pictures
from openset.label.formats import FORMATS, Labelled
from openset.label.job import label_all
from openset.label.output import open_output
from openset.label.report import write_report
from openset.label.results_log import LogError, ResultsLog
from openset.label.worker_pool import WorkerModel
from openset.sources import SourceError, find_sources


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 once every picture has a result, 1 if some have none, 2 if all have none or it cannot run."""
    try:
        return _run(args)
    except (SourceError, LogError, NoAnswers, OSError) as error:
        print(f"openset label: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("openset label: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    if args.every <= 0:
        raise SourceError("--every must be positive")
    if args.ray and args.url:
        raise SourceError("--ray runs the models on a cluster, --url asks a server: give one of them")
    if args.actors and not args.ray:
        raise SourceError("--actors are of --ray ADDRESS")
    sources = find_sources(args.sources, stdin=sys.stdin, without=None if is_address(args.out) else Path(args.out))
    request, thresholds = _request(args), dict(args.thresholds or ())
    _check_thresholds(request, thresholds)
    with _opened(args, request, thresholds) as (detector, model, parallel), open_output(args.out) as (out, save):
        description: dict[str, Any] = {
            "root": sources.address,
            "model": model.name,
            "weights_sha256": model.weights_sha256,
        }
        description |= {"every": args.every, **request, **({"thresholds": thresholds} if thresholds else {})}
        with ResultsLog(out, description) as log:
            frames = out / "frames"
            results = label_all(sources.files, detector, log, parallel=parallel, frames=frames, every_s=args.every)
            before, found, failed = len(log.done()), 0, 0
            videos = any(source.is_video for source in sources.files)
            total, hidden = None if videos else len(sources.files), True if args.quiet else None
            with tqdm(results, unit="picture", initial=before, total=total, disable=hidden) as progress:
                for result in progress:
                    save()
                    found += len(result.detections)
                    failed += result.error is not None
                    progress.set_postfix(boxes=found, failed=failed, refresh=False)
            labelled = Labelled(log, sources, frames, _categories(request, log), model.name)
            written = [log.file, *(FORMATS[name](labelled, out) for name in args.format or ("coco",))]
            if args.draw:
                written.append(draw_pictures(labelled, out))
            options = {name: _shown(value) for name, value in request.items()}
            options |= {f"least score of {label}": str(score) for label, score in thresholds.items()}
            report = write_report(labelled, out, options=options, written=written)
            failures, pictures = log.failures, len(log.done())
            summary = report.read_text("utf-8").splitlines()[2]
    if not args.quiet:
        print(summary)
        names = (path.relative_to(out).as_posix() for path in [*written, report])
        folder = args.out.rstrip("/")
        print(f"written: {', '.join(f'{folder}/{name}' for name in names)}")
    return 0 if not failures else 1 if failures < pictures else 2


@contextmanager
def _opened(
    args: argparse.Namespace, request: Mapping[str, Any], thresholds: Mapping[str, float]
) -> Iterator[tuple[Detector, WorkerModel, int]]:
    """The detector of the job, its model, and the number of pictures to ask for at a time."""
    if args.ray:
        from openset.label.on_ray import ray_pool

        with ray_pool(args, request, thresholds) as pool:
            yield pool, pool.model, pool.ahead
    else:
        with closing(open_answerer(args, "detect")) as model:
            detector = ModelDetector(model, request, thresholds)
            yield detector, WorkerModel(model.name, model.weights_sha256), args.parallel


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that all pictures share."""
    asked = {"prompt": args.prompt} if args.prompt is not None else {"labels": args.labels or _labels_of(args)}
    return asked | given(args, DETECTION_OPTIONS)


def _labels_of(args: argparse.Namespace) -> list[str]:
    try:
        lines = read_regular(args.labels_file).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SourceError(f"{args.labels_file} cannot be read: {reason}") from None
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise SourceError(f"{args.labels_file} names nothing to find")
    return list(dict.fromkeys(labels))


def _check_thresholds(request: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
    labels = request.get("labels")
    if labels is not None and (unknown := [label for label in thresholds if label not in labels]):
        raise SourceError(f"--threshold {unknown[0]}=…: the labels are {', '.join(labels)}")
    rest = labels is None or set(labels) - set(thresholds)
    if thresholds and rest and "box_threshold" not in request:
        raise SourceError("--threshold for some labels only: give --box-threshold, the least score of the others")


def _categories(request: Mapping[str, Any], log: ResultsLog) -> dict[int, str]:
    """Labels by label_id; of a prompt those phrases that were found."""
    if "labels" in request:
        return dict(enumerate(request["labels"]))
    return dict(sorted({found.label_id: found.label for each in log.read() for found in each.detections}.items()))


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
