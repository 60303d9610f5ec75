"""Asking a model that is served: from a bundle folder, through the server's own pipeline, or over HTTP.

Both ways answer alike and may be asked from several threads at once; what the model refuses is an `Unanswered`.
"""

import argparse
import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from openset import Client, ClientError
from openset.results import ServedModel
from server.bundle import Bundle
from server.contract.text import PromptError
from server.errors import Fault, invalid_request
from server.inference.pipeline import Pipeline
from server.middleware.request_context import RequestContext
from server.registry.model_registry import ModelRegistry, open_bundles
from server.schemas import (
    ClassifyRequest,
    DetectRequest,
    Embeddings,
    ImageDetections,
    LabelScore,
    SimilarityRequest,
)
from server.settings import read_settings
from server.telemetry.metrics import Metrics

T = TypeVar("T")
Request = TypeVar("Request", bound=BaseModel)
# In-process nobody else is kept waiting.
MOST_LABELS, MOST_PASSES = 100_000, 1000
TIMEOUT_S = 600.0


class Unanswered(Exception):
    """Why a question got no answer, as one sentence."""


@dataclass(frozen=True)
class Model:
    """What a report says of the model, and its own defaults for a request."""

    name: str
    family: str
    version: str
    tasks: tuple[str, ...]
    weights_sha256: str
    defaults: Mapping[str, Any]

    @property
    def box_threshold(self) -> float:
        """The least score of a detection that a request gets which asks for none."""
        return float(self.defaults["box_threshold"])


class Backend(Protocol):
    """A model that can be asked about one picture, as the bytes of its file."""

    model: Model

    def detect(
        self,
        picture: bytes,
        labels: Sequence[str],
        *,
        box_threshold: float | None = None,
        max_detections: int | None = None,
        nms_iou: float | None = None,
    ) -> ImageDetections:
        """Boxes x0, y0, x1, y1; what is left out is the model's own."""

    def classify(self, picture: bytes, labels: Sequence[str], *, templates: Sequence[str] = ()) -> list[LabelScore]:
        """All labels' scores, best first."""

    def embed(self, picture: bytes, texts: Sequence[str]) -> Embeddings:
        """The unit-length embeddings of the picture and of the texts."""

    def close(self) -> None:
        """End what was started."""


class InProcess:
    """A bundle, or the bundled ones, answered by the server's pipeline in this process, whatever the number of labels.

    The pipeline runs on an event loop in a thread of its own.
    """

    def __init__(
        self, bundles: Sequence[Path], name: str | None, *, task: str, allow_uncertified: bool = False
    ) -> None:
        settings = read_settings(
            bundle=tuple(bundles),
            allow_uncertified=allow_uncertified,
            warm_up=False,
            max_labels=MOST_LABELS,
            max_passes=MOST_PASSES,
        )
        metrics = Metrics()
        registry = ModelRegistry(settings, metrics)
        self._pipeline = Pipeline(settings, metrics, registry)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asking", daemon=True)
        self._thread.start()
        try:
            registry.load(open_bundles(settings))
            self.model = _chosen([_of_bundle(served.bundle) for served in registry.served], name, task)
        except BaseException:
            self.close()
            raise

    def detect(self, picture: bytes, labels: Sequence[str], **options: Any) -> ImageDetections:
        request = _request(DetectRequest, self.model.name, images=[picture], labels=tuple(labels), **_given(options))
        return self._answer(self._pipeline.detect(request, RequestContext())).results[0]

    def classify(self, picture: bytes, labels: Sequence[str], *, templates: Sequence[str] = ()) -> list[LabelScore]:
        request = _request(
            ClassifyRequest, self.model.name, images=[picture], labels=tuple(labels), templates=tuple(templates)
        )
        return self._answer(self._pipeline.classify(request, RequestContext())).results[0].scores

    def embed(self, picture: bytes, texts: Sequence[str]) -> Embeddings:
        request = _request(SimilarityRequest, self.model.name, images=[picture], texts=tuple(texts), embeddings=True)
        return _embeddings(self._answer(self._pipeline.similarity(request, RequestContext())).embeddings)

    def close(self) -> None:
        self._pipeline.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _answer(self, question: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(question, self._loop).result()
        except (Fault, PromptError) as error:
            raise Unanswered(str(error)) from error


class OverHttp:
    """A running server, which bounds what it takes."""

    def __init__(self, url: str, name: str | None, *, task: str, api_key: str | None = None) -> None:
        self._client = Client(url, api_key=api_key, timeout=TIMEOUT_S)
        try:
            self.model = _chosen([_of_answer(body) for body in self._client.models().models], name, task)
        except ClientError as error:
            self.close()
            raise Unanswered(str(error)) from error

    def detect(self, picture: bytes, labels: Sequence[str], **options: Any) -> ImageDetections:
        return self._answer("detect", picture, labels=list(labels), **options).results[0]

    def classify(self, picture: bytes, labels: Sequence[str], *, templates: Sequence[str] = ()) -> list[LabelScore]:
        return (
            self._answer("classify", picture, labels=list(labels), templates=list(templates) or None).results[0].scores
        )

    def embed(self, picture: bytes, texts: Sequence[str]) -> Embeddings:
        return _embeddings(self._answer("similarity", picture, texts=list(texts), embeddings=True).embeddings)

    def close(self) -> None:
        self._client.close()

    def _answer(self, method: str, picture: bytes, **options: Any) -> Any:
        try:
            return getattr(self._client, method)(picture, model=self.model.name, **options)
        except ClientError as error:
            raise Unanswered(str(error)) from error


class Asked:
    """Opens the model of a command's arguments, and closes it."""

    def __init__(self, args: argparse.Namespace, *, task: str, name: str | None = None) -> None:
        name = name or args.model
        self._served: Backend = (
            OverHttp(args.url, name, task=task, api_key=args.api_key)
            if args.url
            else InProcess(args.bundle or (), name, task=task, allow_uncertified=args.allow_uncertified)
        )

    def __enter__(self) -> Backend:
        return self._served

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._served.close()


def _of_bundle(bundle: Bundle) -> Model:
    manifest = bundle.manifest
    rules = manifest.detection or manifest.classification
    assert rules is not None, "the manifest gives every bundle its rules"
    return Model(
        manifest.name,
        manifest.family,
        manifest.version,
        tuple(sorted(manifest.tasks)),
        manifest.weights_sha256,
        rules.model_dump(),
    )


def _of_answer(body: ServedModel) -> Model:
    return Model(body.name, body.family, body.version, tuple(body.tasks), body.weights_sha256, body.defaults)


def _chosen(models: Sequence[Model], name: str | None, task: str) -> Model:
    """The model of that name or family, or the first that can do the task."""
    able = [model for model in models if task in model.tasks and name in (None, model.name, model.family)]
    if not able:
        known = [f"{model.name} ({', '.join(model.tasks)})" for model in models]
        raise Unanswered(f"no model{'' if name is None else f' {name!r}'} can {task}; there are {known}")
    return able[0]


def _request(kind: type[Request], model: str, **fields: Any) -> Request:
    try:
        return kind(**{"model": model, **fields})
    except ValidationError as error:
        raise Unanswered(str(invalid_request(error))) from None


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _embeddings(found: Embeddings | None) -> Embeddings:
    if found is None:
        raise Unanswered("the server returned no embeddings")
    return found
