"""`openset label`: find labels in many pictures and write them as data sets, drawn pictures and a report."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openset.label.detector import Detector, DetectorError, InProcessDetector, ServerDetector
from openset.label.drawn import draw_pictures
from openset.label.formats import FORMATS, Labelled
from openset.label.job import label_all
from openset.label.report import write_report
from openset.label.results_log import LogError, ResultsLog
from openset.label.sources import SourceError, find_sources

_OPTIONS = ("box_threshold", "text_threshold", "nms_iou", "max_detections")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `label`."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help='pictures, videos, folders, patterns, or "-" for a list of them'
    )
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--labels", metavar="A,B", help="what to find, separated by commas")
    query.add_argument("--labels-file", type=Path, metavar="FILE", help="what to find, one on each line")
    query.add_argument("--prompt", help='what to find, like "a dog. a bicycle."')
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write; a run goes on there"
    )
    parser.add_argument(
        "--format",
        default="coco",
        metavar="A,B",
        help=f"of {', '.join(FORMATS)}, besides results.jsonl (default: %(default)s)",
    )
    parser.add_argument("--draw", action="store_true", help="write the pictures with their boxes too")
    parser.add_argument(
        "--every", type=float, default=1.0, metavar="SECONDS", help="between frames of a video (default: 1)"
    )
    parser.add_argument(
        "--parallel", type=int, default=8, metavar="N", help="pictures at a time (default: %(default)s)"
    )
    parser.add_argument("--model", help="name or family of the model; by default the first detector")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bundle", action="append", type=Path, metavar="PATH", help="bundle folder, instead of the bundled ones"
    )
    where.add_argument("--url", help="a running server instead, like http://localhost:8000")
    parser.add_argument("--api-key", help="API key of that server")
    parser.add_argument("--allow-uncertified", action="store_true", help="use artefacts without a valid certificate")
    parser.add_argument("--box-threshold", type=float, metavar="0..1", help="least score of a detection")
    parser.add_argument("--text-threshold", type=float, metavar="0..1", help="least score of a matched word")
    parser.add_argument("--nms-iou", type=float, metavar="0..1", help="overlap above which the weaker box is dropped")
    parser.add_argument("--max-detections", type=int, metavar="N")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 once every picture has a result, 1 if some could not be read, 2 for a job that cannot run."""
    try:
        return _run(args)
    except (SourceError, LogError, DetectorError, OSError) as error:
        print(f"openset label: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("openset label: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    writers = [(name, _writer(name)) for name in _split(args.format)]
    if args.every <= 0 or args.parallel < 1:
        raise SourceError("--every and --parallel must be positive")
    sources = find_sources(args.sources, stdin=sys.stdin, without=args.out)
    request = _request(args)
    detector = _open_detector(args, request)
    try:
        description = {"root": str(sources.root), "model": detector.name, "weights_sha256": detector.weights_sha256}
        description |= {"every": args.every, **request}
        with ResultsLog(args.out, description) as log:
            frames = args.out / "frames"
            results = label_all(sources.files, detector, log, parallel=args.parallel, frames=frames, every_s=args.every)
            before, found, failed = len(log.done()), 0, 0
            videos = any(source.is_video for source in sources.files)
            total = None if videos else len(sources.files)
            with tqdm(results, unit="picture", initial=before, total=total, disable=None) as progress:
                for result in progress:
                    found += len(result.detections)
                    failed += result.error is not None
                    progress.set_postfix(boxes=found, failed=failed, refresh=False)
            labelled = Labelled(log, sources.root, frames, _categories(request, log), detector.name)
            written = [log.file, *(write(labelled, args.out) for _, write in writers)]
            if args.draw:
                written.append(draw_pictures(labelled, args.out))
            options = {name: _shown(value) for name, value in request.items()}
            report = write_report(labelled, args.out, options=options, written=written)
            failures = log.failures
    finally:
        detector.close()
    print(report.read_text("utf-8").splitlines()[2])
    print(f"written: {', '.join(map(str, [*written, report]))}")
    return int(failures > 0)


def _writer(name: str) -> Any:
    if name not in FORMATS:
        raise SourceError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that all pictures share."""
    asked = {"prompt": args.prompt} if args.prompt is not None else {"labels": _labels(args)}
    return asked | {name: value for name in _OPTIONS if (value := getattr(args, name)) is not None}


def _labels(args: argparse.Namespace) -> list[str]:
    if args.labels is not None:
        labels, place = _split(args.labels), "--labels"
    else:
        lines = args.labels_file.read_text("utf-8-sig").splitlines()
        labels, place = [line.strip() for line in lines if line.strip()], str(args.labels_file)
    if not labels:
        raise SourceError(f"{place} names nothing to find")
    return list(dict.fromkeys(labels))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _open_detector(args: argparse.Namespace, request: Mapping[str, Any]) -> Detector:
    if args.url:
        return ServerDetector(args.url, args.api_key, args.model, request)
    return InProcessDetector(args.bundle or (), args.model, request, allow_uncertified=args.allow_uncertified)


def _categories(request: Mapping[str, Any], log: ResultsLog) -> dict[int, str]:
    """Labels by label_id; of a prompt those phrases that were found."""
    if "labels" in request:
        return dict(enumerate(request["labels"]))
    return dict(sorted({found.label_id: found.label for each in log.read() for found in each.detections}.items()))


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
