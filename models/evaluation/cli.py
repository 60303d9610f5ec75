"""`openset evaluate`: measure a model on a data set, from a bundle folder or over HTTP, and write a report."""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.data.images import BrokenPicture, DataError
from models.evaluation.absent_labels import Silence
from models.evaluation.answer_log import answered
from models.evaluation.backends import Asked, Backend, Unanswered
from models.evaluation.classification import Classification
from models.evaluation.cli_options import add_asking_arguments, exit_status
from models.evaluation.detection import Detection
from models.evaluation.grounding import Grounding
from models.evaluation.image_bytes import sent
from models.evaluation.metrics import Measure, Question
from models.evaluation.questions import FORMATS, EvaluationSet, format_of, open_set
from models.evaluation.report import MARKDOWN, Section, table, write_report
from models.evaluation.retrieval import Retrieval

MEASURES = ("classification", "retrieval", "detection", "absent", "grounding", "untrue")
FAULTY = "left out: "


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate`."""
    parser.add_argument(
        "set",
        type=Path,
        help="COCO .json, ODVG .jsonl, captions (.tsv, .csv, or a folder with .txt files), a folder of a folder of"
        " pictures for each class, or a folder that models.synthetic.evaluation_set wrote",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report and of the answers")
    parser.add_argument("--format", choices=FORMATS, help="of the set, where it is not what it looks like")
    parser.add_argument("--pictures", type=Path, help="where the set's paths start (default: beside its file)")
    parser.add_argument("--label-map", type=Path, help='JSON of {"0": "person", ...}, for ODVG and class folders')
    parser.add_argument("--measures", nargs="+", choices=MEASURES, help="these only (default: all the set allows)")
    parser.add_argument("--template", action="append", help='like "a photo of a {}."; several are averaged')
    parser.add_argument(
        "--max-detections", type=int, default=300, help="of a picture, for average precision (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only the first pictures of the set")
    parser.add_argument("--skip-faulty", action="store_true", help="leave out faulty records, and count them")
    add_asking_arguments(parser)
    parser.add_argument("--classifier", metavar="NAME", help="the model to classify and compare, instead of --model")
    parser.add_argument("--detector", metavar="NAME", help="the model to detect, instead of --model")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """The command's exit status: 2, with a sentence, for a set or model that cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("evaluate", evaluate, args)


def evaluate(args: argparse.Namespace) -> str:
    """Ask, measure and write the report; the table of all figures."""
    kind = args.format or format_of(args.set)
    found = open_set(
        args.set, kind, pictures=args.pictures, label_map=args.label_map, limit=args.limit, skip=args.skip_faulty
    )
    wanted = [name for name in MEASURES if name in found.askings and name in (args.measures or MEASURES)]
    if not wanted:
        raise DataError(f"{found.name}: none of {args.measures or list(MEASURES)} can be measured on a {kind} set")
    sections = [_section(_measure(name, found, args), found, args) for name in wanted]
    about: dict[str, Any] = {"set": found.name, "format": kind, "faulty entries left out": found.skipped}
    about["models"] = sorted({section.model for section in sections})
    write_report(args.out, about, sections)
    return f"{table(sections)}\n\nwrote {args.out / MARKDOWN}"


def _measure(name: str, found: EvaluationSet, args: argparse.Namespace) -> Measure:
    count, questions = found.askings[name].count, found.askings[name].questions
    if name == "classification":
        return Classification(count, questions, found.names, args.template or ())
    if name == "retrieval":
        return Retrieval(count, questions)
    if name == "detection":
        return Detection(count, questions, found.names, most=args.max_detections)
    if name == "grounding":
        return Grounding(count, questions)
    return Silence(name, count, questions)


def _section(measure: Measure, found: EvaluationSet, args: argparse.Namespace) -> Section:
    """Ask one measure's questions; what was answered before, and is resumed, takes no time."""
    left_out: list[str] = []
    seconds = 0.0
    with Asked(args, task=measure.task, name=_name(measure, args)) as served:
        model = served.model
        about = {
            "measure": measure.name,
            "set": found.name,
            "questions": len(measure),
            "model": [model.name, model.version, model.weights_sha256],
            "options": [args.limit, args.skip_faulty, args.max_detections, args.template],
        }
        answers = answered(
            args.out / f"answers-{measure.name}.jsonl",
            about,
            measure.questions(),
            lambda question: _ask(served, measure, question, skip=args.skip_faulty),
            parallel=args.parallel,
            resume=args.resume,
        )
        started, count = time.monotonic(), 0
        for question, answer in tqdm(answers, total=len(measure), desc=measure.name, unit="questions", disable=None):
            count += 1
            if isinstance(answer, str):
                left_out.append(answer.removeprefix(FAULTY))
            measure.add(question, None if isinstance(answer, str) else answer)
        seconds = time.monotonic() - started
        if left_out and len(left_out) == count:
            raise DataError(f"{found.name}: no picture could be used, the first: {left_out[0]}")
        return Section(measure.name, f"{model.name} {model.version}", measure.result(served), count, seconds, left_out)


def _name(measure: Measure, args: argparse.Namespace) -> str | None:
    chosen: str | None = args.detector if measure.task == "detect" else args.classifier
    return chosen or args.model


def _ask(served: Backend, measure: Measure, question: Question, *, skip: bool) -> Any:
    """The answer, or as a text why the picture was left out; errors name the record."""
    try:
        picture, _ = sent(question.picture, question.size)
    except BrokenPicture as error:
        if not skip:
            raise BrokenPicture(f"{question.where}: {error}") from error
        return f"{FAULTY}{question.where}: {error}"
    try:
        return measure.ask(served, question, picture)
    except Unanswered as error:
        raise Unanswered(f"{question.where}: {error}") from error
