"""Mapping between tensors and the requests and responses of the tasks."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from server.contract.manifest import Task
from server.contract.text import shown
from server.errors import FieldFault, InvalidRequest, invalid_request
from server.inference.pipeline import Pipeline
from server.inference.request_images import check_image_count
from server.request_context import RequestContext
from server.requests import ClassifyRequest, DetectRequest, SimilarityRequest
from server.routes.open_inference.schemas import Parameters, TensorMetadata
from server.routes.open_inference.tensors import ALL_BINARY, Content, ParsedRequest, Tensor
from server.schemas import ClassifyAnswer, DetectAnswer, SimilarityAnswer
from server.settings import Settings

AnyRequest = DetectRequest | ClassifyRequest | SimilarityRequest
_EMBEDDINGS = ("image_embeds", "text_embeds")
# Triton's request parameters: 0 is the default, 1 the highest priority; microseconds, 0 for none.
PRIORITY, TIMEOUT = "priority", "timeout"


@dataclass(frozen=True)
class _TaskTensors:
    """A task's input texts besides `image`, its outputs, and the parameters it shares with its own endpoint."""

    model: type[AnyRequest]
    texts: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[TensorMetadata, ...]


def _floats(name: str, *shape: int) -> TensorMetadata:
    return TensorMetadata(name=name, datatype="FP32", shape=list(shape))


def _integers(name: str, *shape: int) -> TensorMetadata:
    return TensorMetadata(name=name, datatype="INT64", shape=list(shape))


def _texts(name: str, size: int = -1) -> TensorMetadata:
    return TensorMetadata(name=name, datatype="BYTES", shape=[size])


_TENSORS: Mapping[Task, _TaskTensors] = {
    "detect": _TaskTensors(
        DetectRequest,
        ("labels", "prompt"),
        (
            "box_threshold",
            "text_threshold",
            "nms_iou",
            "nms_across_labels",
            "max_detections",
            "shorter",
            "longer",
            "box_format",
        ),
        (
            _floats("boxes", -1, 4),
            _floats("scores", -1),
            _texts("labels"),
            _integers("label_ids", -1),
            _integers("image_index", -1),
            _integers("image_sizes", -1, 2),
        ),
    ),
    "classify": _TaskTensors(ClassifyRequest, ("labels", "templates"), ("multi_label",), (_floats("scores", -1, -1),)),
    "similarity": _TaskTensors(
        SimilarityRequest,
        ("texts",),
        (),
        (
            _floats("similarity", -1, -1),
            _floats("logit_scale", 1),
            *(_floats(name, -1, -1) for name in _EMBEDDINGS),
        ),
    ),
}
_GENERAL = (ALL_BINARY, PRIORITY, TIMEOUT)  # parameters of every task
# Inputs with exactly one value.
_SINGLE = ("prompt",)


def inputs_of(tasks: frozenset[Task]) -> list[TensorMetadata]:
    """The input tensors of a model with these tasks: `image`, and the texts of each."""
    names = dict.fromkeys(chain.from_iterable(_TENSORS[task].texts for task in sorted(tasks)))
    return [_texts("image"), *(_texts(name, 1 if name in _SINGLE else -1) for name in names)]


def outputs_of(tasks: frozenset[Task]) -> list[TensorMetadata]:
    """The output tensors of a model with these tasks."""
    return [output for task in sorted(tasks) for output in _TENSORS[task].outputs]


def task_of(tasks: frozenset[Task], contents: Mapping[str, Content]) -> Task:
    """The task of a request: with `texts` similarity, else the model's other one."""
    if len(tasks) == 1:
        return next(iter(tasks))
    return "similarity" if "texts" in contents else "classify"


def read_scheduling(parameters: Parameters, context: RequestContext) -> None:
    """Take over Triton's `priority` and `timeout`, which may only bring the headers' deadline nearer."""
    if priority := parameters.get(PRIORITY):
        context.priority = "interactive" if priority == 1 else "batch"
    if timeout := parameters.get(TIMEOUT):
        context.shorten(float(timeout) / 1e6)


def as_request(task: Task, model: str, parsed: ParsedRequest, settings: Settings) -> AnyRequest:
    """The request as the task's own endpoint would parse it; a RequestFault if it is wrong."""
    tensors, request, contents = _TENSORS[task], parsed.request, parsed.contents
    names = [output.name for output in tensors.outputs]
    faults = [
        *_unknown("input", contents, ("image", *tensors.texts), task),
        *_unknown("parameter", request.parameters, (*tensors.parameters, *_GENERAL), task),
        *_unknown("output", [output.name for output in request.outputs or ()], names, task),
    ]
    if "image" not in contents:
        faults.append(FieldFault("image", "this input is required"))
    if not isinstance(request.parameters.get(ALL_BINARY, False), bool):
        faults.append(FieldFault(ALL_BINARY, "this parameter must be true or false"))
    for name in (PRIORITY, TIMEOUT):
        value = request.parameters.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            faults.append(FieldFault(name, "this parameter must be a whole number, 0 for the default"))
    if faults:
        raise InvalidRequest(faults)
    fields: dict[str, Any] = {name: value for name, value in request.parameters.items() if name not in _GENERAL}
    fields |= {name: _decode_texts(name, contents[name]) for name in tensors.texts if name in contents}
    if task == "similarity":
        named = {output.name for output in request.outputs or ()}
        fields["embeddings"] = not named or not named.isdisjoint(_EMBEDDINGS)
    images = _encoded_images(contents["image"], settings)
    try:
        return tensors.model.model_validate(fields | {"model": model, "images": images}, context=parsed.strings)
    except ValidationError as error:
        raise invalid_request(error) from None


async def infer_tensors(pipeline: Pipeline, request: AnyRequest, context: RequestContext) -> dict[str, Tensor]:
    """Run the task; its outputs by name."""
    if isinstance(request, DetectRequest):
        return _detections(await pipeline.detect(request, context))
    if isinstance(request, ClassifyRequest):
        return _scores(await pipeline.classify(request, context))
    return _similarities(await pipeline.similarity(request, context))


def _detections(answer: DetectAnswer) -> dict[str, Tensor]:
    found = [(index, each) for index, result in enumerate(answer.results) for each in result.detections]
    sizes = [side for result in answer.results for side in (result.height, result.width)]
    count = (len(found),)
    return {
        "boxes": Tensor("FP32", (*count, 4), [side for _, each in found for side in each.box]),
        "scores": Tensor("FP32", count, [each.score for _, each in found]),
        "labels": Tensor("BYTES", count, [each.label for _, each in found]),
        "label_ids": Tensor("INT64", count, [each.label_id for _, each in found]),
        "image_index": Tensor("INT64", count, [index for index, _ in found]),
        "image_sizes": Tensor("INT64", (len(answer.results), 2), sizes),
    }


def _scores(answer: ClassifyAnswer) -> dict[str, Tensor]:
    rows = [sorted(result.scores, key=lambda score: score.label_id) for result in answer.results]
    return {"scores": _matrix([[score.score for score in row] for row in rows])}


def _similarities(answer: SimilarityAnswer) -> dict[str, Tensor]:
    tensors = {
        "similarity": _matrix(answer.similarity),
        "logit_scale": Tensor("FP32", (1,), [answer.logit_scale]),
    }
    if answer.embeddings:
        embeddings = (answer.embeddings.images, answer.embeddings.texts)
        tensors |= {name: _matrix(rows) for name, rows in zip(_EMBEDDINGS, embeddings, strict=True)}
    return tensors


def _matrix(rows: list[list[float]]) -> Tensor:
    return Tensor("FP32", (len(rows), len(rows[0])), list(chain.from_iterable(rows)))


def _unknown(kind: str, given: Sequence[str] | Mapping[str, Any], known: Sequence[str], task: Task) -> list[FieldFault]:
    unknown = islice((name for name in given if name not in known), 20)
    reason = f"there is no such {kind} in {task}; there are {', '.join(known)}"
    return [FieldFault(shown(name).strip("'"), reason) for name in unknown]


def _decode_texts(name: str, content: Content) -> str | list[str]:
    if not isinstance(content, list):
        raise InvalidRequest([FieldFault(name, "its datatype is UINT8: texts must be BYTES")])
    try:
        texts = [value if isinstance(value, str) else value.decode() for value in content]
    except UnicodeDecodeError:
        raise InvalidRequest([FieldFault(name, "a text is not UTF-8")]) from None
    if name not in _SINGLE:
        return texts
    if len(texts) != 1:
        raise InvalidRequest([FieldFault(name, f"it has {len(texts)} values, but must have one")])
    return texts[0]


def _encoded_images(content: Content, settings: Settings) -> Sequence[str | bytes]:
    """The encoded images: as they were sent, or from pixels [H, W, 3] or [N, H, W, 3], uint8 RGB; not too many."""
    check_image_count(1 if getattr(content, "ndim", 1) == 3 else len(content), settings)
    if isinstance(content, list):
        return content
    pixels = content[None] if content.ndim == 3 else content
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        shape = shown(str(list(content.shape)))
        raise InvalidRequest([FieldFault("image", f"its shape is {shape}: it must be [H, W, 3] or [N, H, W, 3], RGB")])
    return [_encode(image) for image in pixels]


def _encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "BMP")  # the quickest lossless format
    return encoded.getvalue()
