"""Options that several commands share: lists, the model that answers, and the thresholds of a detection."""

import argparse
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DETECTION_OPTIONS = ("box_threshold", "text_threshold", "nms_iou", "max_detections", "shorter", "longer")
API_KEY = "OPENSET_API_KEY"
LIST_HELP = 'separated by commas, repeated, or as a JSON array like \'["a, b", "c"]\''


class OptionError(ValueError):
    """Options that do not go together; the message says why."""


class ListAction(argparse.Action):
    """Collects a list from `dog,cat`, from the option repeated, and from a JSON array, in any mixture.

    With `commas=False` a comma is part of the text, as in sentences. A value that was probably meant otherwise (a
    prompt, another separator, a JSON array whose quotes the shell took) is refused, with the way to write it.
    """

    def __init__(self, *args: Any, commas: bool = True, choices: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # without the choices, which argparse would compare with the whole value
        self._commas, self._choices = commas, choices

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = list(getattr(namespace, self.dest) or ())
        for value in values if isinstance(values, list) else [values]:
            given += self._read(value)
        given = list(dict.fromkeys(given))
        if not given:
            raise argparse.ArgumentError(self, "it names nothing")
        if unknown := [one for one in given if self._choices is not None and one not in self._choices]:
            known = ", ".join(self._choices or ())
            raise argparse.ArgumentError(self, f"there is no {unknown[0]!r}; there are {known}")
        setattr(namespace, self.dest, given)

    def _read(self, value: str) -> list[str]:
        if value.lstrip().startswith("["):
            return self._read_json(value)
        if not self._commas:
            return [value.strip()] if value.strip() else []
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if len(parts) == 1:
            for sign in (";", "|", "\n"):
                if sign in value:
                    self._refuse(value, f"{sign!r} separates nothing", value.split(sign))
            if value.rstrip().endswith("."):
                self._refuse(value, "it reads like a prompt (--prompt)", value.split("."))
        return parts

    def _read_json(self, value: str) -> list[str]:
        try:
            texts = json.loads(value)
        except (ValueError, RecursionError):
            plain = value.strip(" []").replace('"', "").replace("'", "")
            self._refuse(value, "it begins like a JSON array, and is none", plain.split(","))
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise argparse.ArgumentError(self, f"{value}: a JSON array of texts is expected")
        return [text.strip() for text in texts]

    def _refuse(self, value: str, reason: str, parts: Iterable[str]) -> None:
        texts = [part.strip() for part in parts if part.strip()]
        option, whole = self.option_strings[0], json.dumps([value], ensure_ascii=False)
        raise argparse.ArgumentError(
            self, f"{value!r}: {reason}; for several, write {option} {','.join(texts)!r}, for just this {whole!r}"
        )


def model_name(text: str) -> str:
    """Name of a model in requests; one that was pulled as "org/name@revision" is called "org--name--revision"."""
    return re.sub("[/@]", "--", text.strip()).lower() if "/" in text else text


def add_model_options(parser: argparse.ArgumentParser, *, parallel: int) -> None:
    """Add the options that choose a model in this process or at a server; `parallel`: requests at a time."""
    parser.add_argument(
        "--model",
        type=model_name,
        metavar="NAME",
        help="name, family or repository (org/name) of the model, as openset models lists it; by default the first that"
        " can do this",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bundle", action="append", type=Path, metavar="PATH", help="bundle folder, instead of the bundled ones"
    )
    where.add_argument("--url", help="a running server instead, like http://localhost:8000")
    parser.add_argument("--api-key", metavar="KEY", help=f"API key of that server [{API_KEY}]")
    parser.add_argument("--allow-uncertified", action="store_true", help="use artefacts without a valid certificate")
    parser.add_argument(
        "--parallel", type=positive, default=parallel, metavar="N", help="requests at a time (default: %(default)s)"
    )


def add_detection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a detection, by the names of the request's fields."""
    parser.add_argument("--box-threshold", type=float, metavar="0..1", help="least score of a detection")
    parser.add_argument("--text-threshold", type=float, metavar="0..1", help="least score of a matched word")
    parser.add_argument("--nms-iou", type=float, metavar="0..1", help="overlap above which the weaker box is dropped")
    parser.add_argument("--max-detections", type=int, metavar="N")
    parser.add_argument(
        "--shorter",
        type=positive,
        metavar="PIXELS",
        help="shorter side that pictures are resized to, from a quarter of the model's own: faster, and finds fewer"
        " small things",
    )
    parser.add_argument("--longer", type=positive, metavar="PIXELS", help="most pixels of the longer side")
    parser.add_argument(
        "--threshold",
        dest="thresholds",
        action="append",
        type=_of_label,
        metavar="LABEL=0..1",
        help="least score of one of --labels, repeatable; the others have --box-threshold",
    )


def label_thresholds(args: argparse.Namespace, labels: Sequence[str] | None) -> dict[str, list[float | None]]:
    """The field of a request that --threshold stands for: one for each label, in order; OptionError names a mistake."""
    thresholds: dict[str, float] = dict(args.thresholds or ())
    if thresholds and labels is None:
        raise OptionError("--threshold is for one of --labels: give them instead of --prompt")
    if unknown := [label for label in thresholds if label not in (labels or ())]:
        raise OptionError(f"--threshold {unknown[0]}=…: the labels are {', '.join(labels or ())}")
    return {"label_thresholds": [thresholds.get(label) for label in labels or ()]} if thresholds else {}


def _of_label(text: str) -> tuple[str, float]:
    label, sign, score = text.rpartition("=")
    try:
        value = float(score)
    except ValueError:
        value = -1.0
    if not sign or not label.strip() or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no label with its least score, like dog=0.4")
    return label.strip(), value


def api_key(args: argparse.Namespace) -> str | None:
    """The API key of the options, or of the environment."""
    return args.api_key or os.environ.get(API_KEY) or None


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were given."""
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def positive(text: str) -> int:
    """A whole number above 0, as a type of options."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
