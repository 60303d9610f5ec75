"""`openset pseudo-label`: pictures with captions in, grounding records that `openset train` reads out."""

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.data.captions import CaptionFolder, CaptionLines, open_captions
from models.data.images import BrokenPicture, DataError, PictureFile
from models.data.records import CaptionRecord
from models.evaluation.answer_log import answered
from models.evaluation.backends import Asked, Backend, Unanswered
from models.evaluation.cli_options import add_asking_arguments, exit_status
from models.evaluation.image_bytes import sent
from models.pseudo_labels.caption_grounding import Confidence, grounded

LOG = logging.getLogger(__name__)


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of `pseudo-label`."""
    defaults = Confidence()
    parser.add_argument(
        "captions", type=Path, help="folder of pictures with .txt files, or a .tsv, .csv or .jsonl list"
    )
    parser.add_argument("--pictures", type=Path, help="where the paths of a list start (default: beside it)")
    parser.add_argument("--out", type=Path, required=True, metavar="JSONL", help="ODVG file to write")
    parser.add_argument(
        "--threshold", type=float, default=defaults.threshold, help="least score of a box (default: %(default)s)"
    )
    parser.add_argument(
        "--nms-iou",
        type=float,
        default=defaults.nms_iou,
        help="overlap above which the weaker of a phrase's boxes goes (default: %(default)s)",
    )
    parser.add_argument(
        "--most", type=int, default=defaults.most, help="leave out a phrase with more boxes (default: %(default)s)"
    )
    parser.add_argument("--complete", action="store_true", help="leave out a caption of which a phrase has no box")
    parser.add_argument(
        "--skip-faulty", action="store_true", help="leave out faulty entries and pictures, and count them"
    )
    add_asking_arguments(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The command's exit status: 2, with a sentence, for captions or a teacher that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_status("pseudo-label", pseudo_label, args)


@dataclass(frozen=True)
class Captioned:
    """A caption and its picture; `filename` is the picture's path as the record will say it."""

    record: CaptionRecord
    caption: str
    filename: str


@dataclass
class Count:
    """What became of the captions."""

    captions: int = 0
    records: int = 0
    phrases: int = 0
    boxes: int = 0
    broken: int = 0

    def __str__(self) -> str:
        return (
            f"{self.records} records of {self.captions} captions, {self.phrases} phrases, {self.boxes} boxes;"
            f" {self.captions - self.records - self.broken} captions are left out, {self.broken} no picture"
        )


def pseudo_label(args: argparse.Namespace) -> str:
    """Write the records; what became of the captions, as a sentence."""
    if args.out.exists():
        raise DataError(f"{args.out} is there already: remove it, or give another --out")
    captions = open_captions(args.captions, args.pictures, skip=args.skip_faulty)
    if not len(captions):
        raise DataError(f"{captions.name} has no record")
    confidence = Confidence(args.threshold, args.nms_iou, args.most, args.complete)
    part = args.out.with_name(args.out.name + ".part")
    with Asked(args, task="detect") as teacher:
        about = {"captions": captions.name, "model": [teacher.model.name, teacher.model.weights_sha256]}
        about |= {"skip_faulty": args.skip_faulty, **asdict(confidence)}

        def ask(one: Captioned) -> dict[str, Any] | str | None:
            return _asked(teacher, one, confidence, skip=args.skip_faulty)

        questions = _questions(captions, args.captions, args.pictures)
        answers = answered(part, about, questions, ask, parallel=args.parallel, resume=args.resume)
        for _ in tqdm(answers, unit="captions", disable=None):
            pass
    count = _written(part, args.out)
    if args.skip_faulty and captions.skipped:
        LOG.warning("%s: %d faulty entries were left out", captions.name, captions.skipped)
    return f"{args.out}: {count}"


def _asked(teacher: Backend, one: Captioned, confidence: Confidence, *, skip: bool) -> dict[str, Any] | str | None:
    """The record, None where there is none, or what is wrong with the picture."""
    try:
        data, _ = sent(one.record.picture, None)
        return grounded(teacher, data, one.caption, confidence, filename=one.filename)
    except BrokenPicture as error:
        if not skip:
            raise
        return str(error)
    except Unanswered as error:
        raise Unanswered(f"{one.record.where}: {error}") from error


def _questions(captions: CaptionFolder | CaptionLines, path: Path, pictures: Path | None) -> Iterator[Captioned]:
    """Every caption of every picture: one with five captions becomes up to five records."""
    root = path if path.is_dir() else pictures or path.parent
    for index in range(len(captions)):
        record = captions[index]
        assert isinstance(record.picture, PictureFile), "caption sets name files"
        file = record.picture.path
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        for caption in record.captions:
            yield Captioned(record, caption, name)


def _written(part: Path, out: Path) -> Count:
    """Make the finished file of the answers; what they are."""
    count = Count()
    new = out.with_name(out.name + ".new")
    with part.open(encoding="utf-8") as answers, new.open("w", encoding="utf-8") as records:
        next(answers)
        for line in answers:
            count.captions += 1
            answer = json.loads(line)
            if isinstance(answer, str):
                count.broken += 1
                LOG.warning("left out: %s", answer)
            elif answer is not None:
                regions = answer["grounding"]["regions"]
                count.records += 1
                count.phrases += len(regions)
                count.boxes += sum(len(region["bbox"]) for region in regions)
                records.write(line)
    new.replace(out)
    part.unlink()
    return count
