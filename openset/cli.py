"""Commands `detect`, `classify` and `similarity`: answers for pictures as text or JSON, each as it comes."""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from openset.answerer import Answerer, NoAnswers, PictureFault, open_answerer
from openset.arguments import DRAWN
from openset.command_options import DETECTION_OPTIONS, OptionError, given, label_thresholds
from openset.ordered_map import map_in_order
from openset.sources import SourceError, find_sources, printable

# Options that carry the names of the request's fields.
_FIELDS = {
    "detect": ("labels", "prompt", "box_format", *DETECTION_OPTIONS),
    "classify": ("labels", "templates", "multi_label", "top_k"),
    "similarity": ("texts", "embeddings"),
}
_QUALITY = 90


class OutputError(Exception):
    """A file cannot be written; the message is one sentence."""


class _Picture(NamedTuple):
    name: str
    image: str | bytes
    fault: str | None = None


def run(args: argparse.Namespace) -> int:
    """Run one command; exit status 1 where some pictures got no answer, 2 where none did."""
    try:
        return _run(args)
    except (SourceError, NoAnswers, OptionError, OutputError) as error:
        print(f"openset {args.command}: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    pictures = _pictures(args.images)
    several, out, failed = len(pictures) > 1, getattr(args, "out", None), 0
    if out:
        _check_drawing(args, several=several)
    fields = given(args, _FIELDS[args.command])
    if args.command == "detect":
        fields |= label_thresholds(args, args.labels)
    with closing(open_answerer(args, args.command)) as answerer:
        ask = partial(_ask, answerer, fields, out)
        for picture, answer in map_in_order(ask, pictures, parallel=args.parallel):
            if isinstance(answer, PictureFault):
                failed += 1
                named = "" if str(answer).startswith(picture.name) or not several else f"{picture.name}: "
                print(f"openset {args.command}: {named}{answer}", file=sys.stderr)
                if several and args.json:
                    print(json.dumps({"image": picture.name, "error": str(answer)}, ensure_ascii=False))
            elif args.json:
                print(_json(answer, picture.name if several else None))
            else:
                print("\n".join(_LINES[args.command](args, answer, f"{picture.name}  " if several else "", picture)))
    return 0 if not failed else 1 if failed < len(pictures) else 2


def _ask(answerer: Answerer, fields: dict[str, Any], out: Path | None, picture: _Picture) -> Any:
    if picture.fault is not None:
        return PictureFault(picture.fault)
    try:
        if out is None:
            return answerer.ask(picture.image, **fields)
        assert answerer.draw is not None, "checked before"
        answer, png = answerer.draw(picture.image, **fields)
    except PictureFault as fault:
        return fault
    _write(out, png)
    return answer


def _pictures(images: list[str]) -> list[_Picture]:
    """The pictures that arguments name: addresses and standard input as they are, the rest as files."""
    found: list[_Picture] = []
    for name in images:
        if name == "-":
            found.append(_Picture(name, _standard_input()))
        elif name.lower().startswith(("http://", "https://")):
            found.append(_Picture(name, name))
        else:
            sources = find_sources([name]).files
            named = len(sources) == 1 and Path(name).is_file()
            found += [
                _Picture(printable(name if named else each.path), str(each.path), each.fault)
                for each in sources
                if not each.is_video
            ]
    return list({each.name: each for each in found}.values())


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise SourceError("- is standard input, and nothing is piped into it: openset detect - … < photo.jpg")
    data = sys.stdin.buffer.read()
    if not data:
        raise SourceError("- is standard input, which is empty or was read for another -")
    return data


def _check_drawing(args: argparse.Namespace, *, several: bool) -> None:
    if args.out.suffix.lower() not in DRAWN:
        raise OutputError(f"{args.out} has no suffix of {', '.join(DRAWN)}, which names the format to draw in")
    if several or args.url:
        reason = "several pictures are" if several else "what a server finds is"
        raise OutputError(f"{reason} drawn by openset label … --draw --out FOLDER")


def _detect_lines(args: argparse.Namespace, answer: Any, name: str, picture: _Picture) -> Iterator[str]:
    (result,) = answer.results
    digits = 4 if (args.box_format or "").endswith("n") else 1
    for found in result.detections:
        box = ", ".join(f"{side:.{digits}f}" for side in found.box)
        yield f"{found.score:.2f}  {name}{found.label}  [{box}]"
    if not result.detections:
        yield f"{name}none of {', '.join(result.labels)} was found"


def _classify_lines(args: argparse.Namespace, answer: Any, name: str, picture: _Picture) -> Iterator[str]:
    for score in answer.results[0].scores:
        yield f"{score.score:.4f}  {name}{score.label}"


def _similarity_lines(args: argparse.Namespace, answer: Any, name: str, picture: _Picture) -> Iterator[str]:
    for text, cosine in zip(args.texts, answer.similarity[0], strict=True):
        yield f"{cosine:+.4f}  {picture.name}  {text}"


_LINES = {"detect": _detect_lines, "classify": _classify_lines, "similarity": _similarity_lines}


def _write(path: Path, png: bytes) -> None:
    """Write the drawing in the format of the path's suffix."""
    from PIL import Image

    data = io.BytesIO(png)
    if (wanted := DRAWN[path.suffix.lower()]) != "PNG":
        data = io.BytesIO()
        try:
            Image.open(io.BytesIO(png)).save(data, wanted, quality=_QUALITY)
        except (OSError, ValueError) as error:  # JPEG and WebP bound the sides of an image
            raise OutputError(f"{path}: the drawing cannot be written as {wanted}, name it .png ({error})") from None
    try:
        path.write_bytes(data.getvalue())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None


def _json(answer: Any, name: str | None) -> str:
    if name is None:
        text: str = answer.model_dump_json(exclude_none=True, indent=1)
        return text
    return json.dumps({"image": name, **answer.model_dump(mode="json", exclude_none=True)}, ensure_ascii=False)
