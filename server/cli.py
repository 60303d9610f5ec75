"""Commands `detect`, `classify` and `similarity`: a `Predictor` for one request, its answer as text or JSON."""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from PIL import Image
from pydantic import BaseModel

from server.contract.manifest import BundleError
from server.contract.text import PromptError
from server.errors import Fault
from server.predictor import Predictor
from server.requests import BoxFormat
from server.settings import SettingsError

# Options that carry the names of the request's fields.
_FIELDS = (
    "prompt",
    "model",
    "box_threshold",
    "text_threshold",
    "nms_iou",
    "max_detections",
    "box_format",
    "templates",
    "multi_label",
    "top_k",
    "embeddings",
)


# Formats that a drawing can be written in, by suffix.
_DRAWN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 90


class InputError(Exception):
    """Standard input cannot be read; the message is one sentence."""


class OutputError(Exception):
    """A file cannot be written; the message is one sentence."""


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `command`."""
    {"detect": _detect_arguments, "classify": _classify_arguments, "similarity": _similarity_arguments}[command](parser)
    parser.add_argument("--model", help="name or family of the model; by default the first that can do this")
    parser.add_argument(
        "--bundle", action="append", type=Path, metavar="PATH", help="bundle folder, instead of the bundled ones"
    )
    parser.add_argument("--allow-uncertified", action="store_true", help="use artefacts without a valid certificate")
    parser.add_argument("--json", action="store_true", help="print the answer of the HTTP endpoint")
    parser.set_defaults(func=run, command=command)


def run(args: argparse.Namespace) -> int:
    """Run one command; on failure one sentence on stderr and exit status 2."""
    commands: dict[str, Callable[[argparse.Namespace, Predictor], str]] = {
        "detect": _detect,
        "classify": _classify,
        "similarity": _similarity,
    }
    bundles, allow = tuple(args.bundle or ()), args.allow_uncertified
    try:
        with Predictor(task=args.command, bundle=bundles, allow_uncertified=allow) as predictor:
            print(commands[args.command](args, predictor))
    except (InputError, OutputError, Fault, PromptError, BundleError, SettingsError) as error:
        print(f"openset {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _detect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a file, or - for standard input")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--prompt", help='what to find, like "a dog. a bicycle."')
    query.add_argument("--labels", metavar="A,B", help="what to find, separated by commas")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write the image with the boxes drawn on it, in the format of the suffix: {', '.join(_DRAWN)}",
    )
    parser.add_argument("--box-threshold", type=float, metavar="0..1", help="least score of a detection")
    parser.add_argument("--text-threshold", type=float, metavar="0..1", help="least score of a matched word")
    parser.add_argument("--nms-iou", type=float, metavar="0..1", help="overlap above which the weaker box is dropped")
    parser.add_argument("--max-detections", type=int, metavar="N")
    parser.add_argument("--box-format", choices=get_args(BoxFormat))


def _classify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a file, or - for standard input")
    parser.add_argument("--labels", required=True, metavar="A,B", help="the candidates, separated by commas")
    parser.add_argument(
        "--template",
        dest="templates",
        action="append",
        metavar="TEXT",
        help='like "a photo of a {}."; several are averaged',
    )
    parser.add_argument("--multi-label", action="store_true", default=None, help="score each label on its own")
    parser.add_argument("--top-k", type=int, metavar="N", help="print only the best N")


def _similarity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, or - for standard input")
    parser.add_argument("--texts", nargs="+", required=True, metavar="TEXT")
    parser.add_argument("--embeddings", action="store_true", default=None, help="with --json: the embeddings too")


def _detect(args: argparse.Namespace, predictor: Predictor) -> str:
    labels, image = _split(args.labels), _opened(args.image)
    if args.out:
        if args.out.suffix.lower() not in _DRAWN:
            raise OutputError(f"{args.out} has no suffix of {', '.join(_DRAWN)}, which names the format to draw in")
        answer, png = predictor.detect_drawn(image, labels, **_options(args))
        _write(args.out, png)
    else:
        answer = predictor.detect(image, labels, **_options(args))
    if args.json:
        return _json(answer)
    (result,) = answer.results
    digits = 4 if (args.box_format or "").endswith("n") else 1
    lines = [
        f"{found.score:.2f}  {found.label}  [{', '.join(f'{side:.{digits}f}' for side in found.box)}]"
        for found in result.detections
    ]
    return "\n".join(lines) or f"none of {', '.join(result.labels)} was found"


def _classify(args: argparse.Namespace, predictor: Predictor) -> str:
    answer = predictor.classify(_opened(args.image), _split(args.labels), **_options(args))
    if args.json:
        return _json(answer)
    return "\n".join(f"{score.score:.4f}  {score.label}" for score in answer.results[0].scores)


def _similarity(args: argparse.Namespace, predictor: Predictor) -> str:
    answer = predictor.similarity([_opened(image) for image in args.images], args.texts, **_options(args))
    if args.json:
        return _json(answer)
    return "\n".join(
        f"{cosine:+.4f}  {path}  {text}"
        for path, row in zip(args.images, answer.similarity, strict=True)
        for text, cosine in zip(args.texts, row, strict=True)
    )


def _options(args: argparse.Namespace) -> Any:
    return {name: getattr(args, name) for name in _FIELDS if getattr(args, name, None) is not None}


def _split(text: str | None) -> list[str]:
    return [label.strip() for label in text.split(",") if label.strip()] if text is not None else []


def _opened(name: str) -> str | bytes:
    """The file's name, or the bytes of standard input."""
    if name != "-":
        return name
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("- is standard input, and nothing is piped into it: openset detect - … < photo.jpg")
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("- is standard input, which is empty or was read for another -")
    return data


def _write(path: Path, png: bytes) -> None:
    """Write the drawing in the format of the path's suffix."""
    data = io.BytesIO(png)
    if (wanted := _DRAWN[path.suffix.lower()]) != "PNG":
        data = io.BytesIO()
        try:
            Image.open(io.BytesIO(png)).save(data, wanted, quality=_QUALITY)
        except (OSError, ValueError) as error:  # JPEG and WebP bound the sides of an image
            raise OutputError(f"{path}: the drawing cannot be written as {wanted}, name it .png ({error})") from None
    try:
        path.write_bytes(data.getvalue())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None


def _json(answer: BaseModel) -> str:
    return answer.model_dump_json(exclude_none=True, indent=1)
