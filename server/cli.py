"""The commands `detect`, `classify` and `similarity`: the server's own pipeline, without HTTP."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from server.box_formats import BoxFormat
from server.contract.manifest import BundleError, Task
from server.contract.text import PromptError
from server.errors import Fault, invalid_request
from server.inference.pipeline import Pipeline
from server.middleware.request_context import RequestContext
from server.registry.model_registry import ModelRegistry, open_bundles
from server.schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    DetectAnswer,
    DetectRequest,
    SimilarityAnswer,
    SimilarityRequest,
)
from server.settings import SettingsError, read_settings
from server.telemetry.metrics import Metrics

T = TypeVar("T")
# Options whose names are those of the request's fields, and go into it as they are.
_FIELDS = (
    "prompt",
    "box_threshold",
    "text_threshold",
    "nms_iou",
    "max_detections",
    "box_format",
    "multi_label",
    "top_k",
)


class ShellError(Exception):
    """What keeps a command from its answer, as one sentence."""


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of `command`."""
    {"detect": _detect_arguments, "classify": _classify_arguments, "similarity": _similarity_arguments}[command](parser)
    parser.add_argument("--model", help="name or family of the model; by default the first that can do this")
    parser.add_argument(
        "--bundle", action="append", type=Path, metavar="PATH", help="bundle folder, instead of the bundled ones"
    )
    parser.add_argument("--allow-uncertified", action="store_true", help="use artefacts without a valid certificate")
    parser.add_argument("--json", action="store_true", help="print what the HTTP endpoint answers")
    parser.set_defaults(func=run, command=command)


def run(args: argparse.Namespace) -> int:
    """Run one command; 2 with one sentence on stderr where it cannot be done."""
    commands: dict[str, Callable[[argparse.Namespace], str]] = {
        "detect": _detect,
        "classify": _classify,
        "similarity": _similarity,
    }
    try:
        print(commands[args.command](args))
    except (ShellError, Fault, PromptError, BundleError, SettingsError) as error:
        print(f"openset {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _detect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help='what to find, like "a dog. a bicycle."')
    what.add_argument("--labels", metavar="A,B", help="what to find, separated by commas")
    parser.add_argument("--out", type=Path, metavar="PNG", help="write the image with the boxes drawn on it")
    parser.add_argument("--box-threshold", type=float, metavar="0..1", help="least score of a detection")
    parser.add_argument("--text-threshold", type=float, metavar="0..1", help="least score of a matched word")
    parser.add_argument("--nms-iou", type=float, metavar="0..1", help="overlap above which the weaker box goes")
    parser.add_argument("--max-detections", type=int, metavar="N")
    parser.add_argument("--box-format", choices=get_args(BoxFormat))


def _classify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--labels", required=True, metavar="A,B", help="the candidates, separated by commas")
    parser.add_argument(
        "--template", action="append", metavar="TEXT", help='like "a photo of a {}."; several are averaged'
    )
    parser.add_argument("--multi-label", action="store_true", default=None, help="score each label on its own")
    parser.add_argument("--top-k", type=int, metavar="N", help="print only the best N")


def _similarity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--texts", nargs="+", required=True, metavar="TEXT")
    parser.add_argument("--embeddings", action="store_true", default=None, help="with --json: the embeddings too")


def _detect(args: argparse.Namespace) -> str:
    request = _request(DetectRequest, args, images=[_read(args.image)], labels=_listed(args.labels))
    answer: DetectAnswer
    if args.out:
        answer, png = _answered(args, "detect", lambda pipeline: pipeline.detect_drawn(request, RequestContext()))
        _write(args.out, png)
    else:
        answer = _answered(args, "detect", lambda pipeline: pipeline.detect(request, RequestContext()))
    if args.json:
        return _json(answer)
    (result,) = answer.results
    digits = 4 if request.box_format.endswith("n") else 1
    lines = [
        f"{found.score:.2f}  {found.label}  [{', '.join(f'{side:.{digits}f}' for side in found.box)}]"
        for found in result.detections
    ]
    return "\n".join(lines) or f"none of {', '.join(result.labels)} was found"


def _classify(args: argparse.Namespace) -> str:
    request = _request(
        ClassifyRequest, args, images=[_read(args.image)], labels=_listed(args.labels), templates=args.template or ()
    )
    answer: ClassifyAnswer = _answered(args, "classify", lambda pipeline: pipeline.classify(request, RequestContext()))
    if args.json:
        return _json(answer)
    return "\n".join(f"{score.score:.4f}  {score.label}" for score in answer.results[0].scores)


def _similarity(args: argparse.Namespace) -> str:
    request = _request(
        SimilarityRequest,
        args,
        images=[_read(path) for path in args.images],
        texts=args.texts,
        embeddings=bool(args.embeddings),
    )
    answer: SimilarityAnswer = _answered(
        args, "similarity", lambda pipeline: pipeline.similarity(request, RequestContext())
    )
    if args.json:
        return _json(answer)
    return "\n".join(
        f"{cosine:+.4f}  {path}  {text}"
        for path, row in zip(args.images, answer.similarity, strict=True)
        for text, cosine in zip(args.texts, row, strict=True)
    )


def _request(model: type[T], args: argparse.Namespace, **given: Any) -> T:
    asked = {name: getattr(args, name) for name in (*_FIELDS, "model") if getattr(args, name, None) is not None}
    try:
        return model(**asked, **given)
    except ValidationError as error:
        raise invalid_request(error) from None


def _answered(args: argparse.Namespace, task: Task, ask: Callable[[Pipeline], Awaitable[T]]) -> T:
    """What the pipeline answers, with the bundles that can do `task` opened for this one request."""
    settings = read_settings(bundle=tuple(args.bundle or ()), allow_uncertified=args.allow_uncertified, warm_up="none")
    metrics = Metrics()
    registry = ModelRegistry(settings, metrics)
    pipeline = Pipeline(settings, metrics, registry)

    async def answer() -> T:
        return await ask(pipeline)

    try:
        registry.load(open_bundles(settings, task=task))
        return asyncio.run(answer())
    finally:
        pipeline.close()


def _listed(text: str | None) -> list[str]:
    return [label.strip() for label in text.split(",") if label.strip()] if text is not None else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShellError(f"{path} cannot be read: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ShellError(f"{path} cannot be written: {error.strerror}") from None


def _json(answer: BaseModel) -> str:
    return answer.model_dump_json(exclude_none=True, indent=1)
