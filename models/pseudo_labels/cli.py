"""`openset pseudo-label`: ground the captions of images with a teacher, as ODVG records that `openset train` reads."""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.data.captions import CaptionFolder, CaptionLines, open_captions
from models.data.faults import counts_text
from models.data.images import DataError, PictureFile
from models.evaluation.backends import open_backend
from models.evaluation.metrics import Query
from models.evaluation.query_runner import (
    LeftOut,
    answer_or_fault,
    exit_status,
    logged_answers,
)
from models.pseudo_labels.caption_grounding import ground_caption
from models.pseudo_labels.grounding_filter import GroundingFilter

LOG = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit status is 2 for captions or a teacher that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # which has a line for each request
    return exit_status("pseudo-label", pseudo_label, args)


@dataclass
class RecordCounts:
    """Numbers of captions read, of records, phrases and boxes written, and of faulty captions left out, by kind."""

    captions: int = 0
    records: int = 0
    phrases: int = 0
    boxes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = counts_text(self.left_out)
        return (
            f"{self.records} records of {self.captions} captions, {self.phrases} phrases, {self.boxes} boxes;"
            f" dropped captions: {self.captions - self.records - self.left_out.total()},"
            f" left out as faulty: {self.left_out.total()}" + (f" ({kinds})" if kinds else "")
        )


def pseudo_label(args: argparse.Namespace) -> str:
    """Write the records; a summary of their numbers."""
    if args.out.exists():
        raise DataError(f"{args.out} exists: remove it, or give another --out")
    captions = open_captions(args.captions, args.pictures, skip=args.skip_faulty)
    if not len(captions):
        raise captions.faults.no_record()
    criteria = GroundingFilter(args.threshold, args.nms_iou, args.most, args.complete)
    log = args.out.with_name(args.out.name + ".part")
    with open_backend(args, task="detect") as teacher:
        header = {"captions": captions.name, "model": [teacher.model.name, teacher.model.weights_sha256]}
        header |= {"skip_faulty": args.skip_faulty, **asdict(criteria)}

        def ask(query: Query) -> Any:
            (caption,) = query.texts
            return answer_or_fault(
                query,
                lambda image: ground_caption(teacher, image, caption, criteria, filename=query.target),
                skip=args.skip_faulty,
            )

        queries = _queries(captions, args.captions, args.pictures)
        answers = logged_answers(log, header, queries, ask, parallel=args.parallel, resume=args.resume)
        for _ in tqdm(answers, unit="captions", disable=None):
            pass
    counts = _write_records(log, args.out)
    left_out = counts_text(captions.faults.counts)
    return f"{args.out}: {counts}" + (f"; faulty entries of {captions.name}: {left_out}" if left_out else "")


def _queries(captions: CaptionFolder | CaptionLines, path: Path, images: Path | None) -> Iterator[Query]:
    """One query for each caption of each image; its target is the image's file name in the record."""
    root = path if path.is_dir() else images or path.parent
    for index in range(len(captions)):
        record = captions[index]
        assert isinstance(record.picture, PictureFile), "caption sets name files"
        file = record.picture.path
        filename = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        for caption in record.captions:
            yield Query(record.picture, record.where, (caption,), target=filename)


def _write_records(log: Path, out: Path) -> RecordCounts:
    """Turn a complete answer log into the file of records, and count them."""
    counts = RecordCounts()
    new = out.with_name(out.name + ".new")
    with log.open(encoding="utf-8") as answers, new.open("w", encoding="utf-8") as records:
        next(answers)
        for line in answers:
            counts.captions += 1
            answer = json.loads(line)
            if (fault := LeftOut.of(answer)) is not None:
                counts.left_out[fault.kind] += 1
                LOG.warning("left out: %s", fault.reason)
            elif answer is not None:
                regions = answer["grounding"]["regions"]
                counts.records += 1
                counts.phrases += len(regions)
                counts.boxes += sum(len(region["bbox"]) for region in regions)
                records.write(line)
    new.replace(out)
    log.unlink()
    return counts
