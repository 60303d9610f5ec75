"""`openset label`: find labels in many pictures and write them as data sets, drawn pictures and a report."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from openset.answerer import NoAnswers, open_answerer
from openset.command_options import DETECTION_OPTIONS, OptionError, given, label_thresholds
from openset.file_systems import is_address
from openset.images import read_regular
from openset.label.detector import Detector, ModelDetector
from openset.label.drawn import draw_pictures
from openset.label.formats import FORMATS, NEEDS, Labelled
from openset.label.job import is_current, label_all
from openset.label.output import open_output
from openset.label.report import write_report
from openset.label.results_log import LogError, PictureResult, ResultsLog
from openset.label.worker_pool import WorkerModel
from openset.sources import SourceError, Sources, find_sources

SHOWN_FAILURES = 5


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 once every picture has a result, 1 if some have none, 2 if all have none or it cannot run."""
    try:
        return _run(args)
    except (SourceError, LogError, NoAnswers, OptionError) as error:
        print(f"openset label: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place, reason = error.filename or args.out, error.strerror or error
        print(f"openset label: {place}: {reason}; the same command goes on from here", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("openset label: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    _check(args)
    sources = find_sources(args.sources, stdin=sys.stdin, without=None if is_address(args.out) else Path(args.out))
    request = _request(args)
    with (
        _opened(args, request) as (detector, model, parallel),
        open_output(args.out) as (out, save),
        TemporaryDirectory(prefix="openset-label-") as fetched,
    ):
        described: dict[str, Any] = {
            "root": sources.address,
            "model": model.name,
            "weights_sha256": model.weights_sha256,
        }
        described |= {"every": args.every, **request}
        frames = out / "frames"
        with ResultsLog(out, described, is_current=_currency(sources, frames)) as log:
            save()
            results = label_all(sources.files, detector, log, parallel=parallel, frames=frames, every_s=args.every)
            before = len(log.done())
            total = None if any(source.is_video for source in sources.files) else len(sources.files)
            hidden = True if args.quiet else None
            with tqdm(results, unit="picture", initial=before, total=total, disable=hidden) as progress:
                _save_each(progress, save)
            categories = _categories(request, log)
            labelled = Labelled(log, sources.root, frames, categories, model.name, sources.filesystem, Path(fetched))
            written = [log.file, *(FORMATS[name](labelled, out) for name in args.format or ("coco",))]
            if args.draw:
                written.append(draw_pictures(labelled, out))
            options = {name: _shown(value) for name, value in request.items() if name != "label_thresholds"}
            options |= {f"least score of {label}": str(score) for label, score in args.thresholds or ()}
            report = write_report(labelled, out, options=options, written=written)
            failures, pictures = log.failures, len(log.done())
            reasons = list(islice((_reason(each) for each in log.read() if each.error is not None), SHOWN_FAILURES))
            summary = report.read_text("utf-8").splitlines()[2]
    if not args.quiet:
        folder = args.out.rstrip("/")
        names = [f"{folder}/{path.relative_to(out).as_posix()}" for path in [*written, report]]
        for reason in reasons:
            print(f"openset label: {reason}", file=sys.stderr)
        if failures > len(reasons):
            print(f"openset label: and {failures - len(reasons)} more, in {names[-1]}", file=sys.stderr)
        if before or log.outdated:
            print(f"from an earlier run: {before} pictures; changed or gone since: {log.outdated}")
        print(summary)
        print(f"written: {', '.join(names)}")
    return 0 if not failures else 1 if failures < pictures else 2


def _check(args: argparse.Namespace) -> None:
    """Refuse options that are wrong, or whose packages are missing, before any work."""
    if not 0 < args.every < math.inf:
        raise SourceError("--every must be a number of seconds above 0")
    for name in args.format or ():
        if name in NEEDS:
            importlib.import_module(NEEDS[name])
    if args.ray and args.url:
        raise SourceError("--ray runs the models on a cluster, --url asks a server: give one of them")
    if args.actors and not args.ray:
        raise SourceError("--actors are of --ray ADDRESS")


def _save_each(results: "tqdm[PictureResult]", save: Callable[[], None]) -> None:
    """Save after each of the results, and show how many boxes were found and pictures failed."""
    found, failed = 0, 0
    for result in results:
        save()
        found += len(result.detections)
        failed += result.error is not None
        results.set_postfix(boxes=found, failed=failed, refresh=False)


@contextmanager
def _opened(args: argparse.Namespace, request: Mapping[str, Any]) -> Iterator[tuple[Detector, WorkerModel, int]]:
    """The detector of the job, its model, and the number of pictures to ask for at a time."""
    if args.ray:
        from openset.label.on_ray import ray_pool

        with ray_pool(args, request) as pool:
            yield pool, pool.model, pool.ahead
    else:
        with closing(open_answerer(args, "detect")) as model:
            detector = ModelDetector(model, request)
            yield detector, WorkerModel(model.name, model.weights_sha256), args.parallel


def _currency(sources: Sources, frames: Path) -> Callable[[PictureResult], bool]:
    """Tell whether a result is still that of its picture; pictures at an address are taken to stay as they are."""
    if sources.filesystem is not None:
        return lambda _: True
    return partial(is_current, root=sources.root, frames=frames)


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that all pictures share."""
    asked: dict[str, Any] = (
        {"prompt": args.prompt} if args.prompt is not None else {"labels": args.labels or _labels_of(args)}
    )
    return asked | given(args, DETECTION_OPTIONS) | label_thresholds(args, asked.get("labels"))


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


def _categories(request: Mapping[str, Any], log: ResultsLog) -> dict[int, str]:
    """Labels by label_id; of a prompt those phrases that were found."""
    if "labels" in request:
        return dict(enumerate(request["labels"]))
    return dict(sorted({found.label_id: found.label for each in log.read() for found in each.detections}.items()))


def _reason(failed: PictureResult) -> str:
    told = failed.error or ""
    return told if failed.image in told else f"{failed.image}: {told}"


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
