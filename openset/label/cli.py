"""`openset label`: find labels in many pictures and write them as data sets, drawn pictures and a report."""

import argparse
import importlib
import math
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

from tqdm import tqdm

from openset.answerer import NoAnswers, open_answerer
from openset.command_options import DETECTION_OPTIONS, OptionError, given, label_thresholds
from openset.images import read_regular
from openset.label.detector import ModelDetector
from openset.label.drawn import draw_pictures
from openset.label.formats import FORMATS, NEEDS, Labelled
from openset.label.job import is_current, label_all
from openset.label.report import write_report
from openset.label.results_log import LogError, PictureResult, ResultsLog
from openset.sources import SourceError, find_sources, printable

SHOWN_FAILURES = 5


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 once every picture has a result, 1 if some have none, 2 if all have none or it cannot run."""
    try:
        return _run(args)
    except (SourceError, LogError, NoAnswers, OptionError, OSError) as error:
        print(f"openset label: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("openset label: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    if not 0 < args.every < math.inf:
        raise SourceError("--every must be a number of seconds above 0")
    for name in args.format or ():
        if name in NEEDS:
            importlib.import_module(NEEDS[name])  # what is missing is told before the work, not after it
    sources = find_sources(args.sources, stdin=sys.stdin, without=args.out)
    request = _request(args)
    with closing(open_answerer(args, "detect")) as model:
        description: dict[str, Any] = {
            "root": printable(sources.root),
            "model": model.name,
            "weights_sha256": model.weights_sha256,
        }
        description |= {"every": args.every, **request}
        frames = args.out / "frames"
        current = partial(is_current, root=sources.root, frames=frames)
        with ResultsLog(args.out, description, is_current=current) as log:
            detector = ModelDetector(model, request)
            results = label_all(sources.files, detector, log, parallel=args.parallel, frames=frames, every_s=args.every)
            before, found, failed = len(log.done()), 0, 0
            videos = any(source.is_video for source in sources.files)
            total, hidden = None if videos else len(sources.files), True if args.quiet else None
            with tqdm(results, unit="picture", initial=before, total=total, disable=hidden) as progress:
                for result in progress:
                    found += len(result.detections)
                    failed += result.error is not None
                    progress.set_postfix(boxes=found, failed=failed, refresh=False)
            labelled = Labelled(log, sources.root, frames, _categories(request, log), model.name)
            written = [log.file, *(FORMATS[name](labelled, args.out) for name in args.format or ("coco",))]
            if args.draw:
                written.append(draw_pictures(labelled, args.out))
            options = {name: _shown(value) for name, value in request.items() if name != "label_thresholds"}
            options |= {f"least score of {label}": str(score) for label, score in args.thresholds or ()}
            report = write_report(labelled, args.out, options=options, written=written)
            failures, pictures = log.failures, len(log.done())
            reasons = list(islice((_reason(each) for each in log.read() if each.error is not None), SHOWN_FAILURES))
    if not args.quiet:
        for reason in reasons:
            print(f"openset label: {reason}", file=sys.stderr)
        if failures > len(reasons):
            print(f"openset label: and {failures - len(reasons)} more, in {report}", file=sys.stderr)
        if before or log.outdated:
            print(f"from an earlier run: {before} pictures; changed or gone since: {log.outdated}")
        print(report.read_text("utf-8").splitlines()[2])
        print(f"written: {', '.join(map(str, [*written, report]))}")
    return 0 if not failures else 1 if failures < pictures else 2


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
