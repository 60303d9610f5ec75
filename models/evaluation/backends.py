"""Backends that answer queries: a bundle run in this process, or a server over HTTP.

Both give the same answers and may be used from several threads; a request without an answer raises `BackendError`.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from openset import Client, ClientError
from openset.command_options import api_key
from openset.errors import ImageError, ProblemError
from openset.results import ServedModel
from server.contract.manifest import Manifest
from server.contract.text import PromptError
from server.errors import (
    KINDS,
    TYPE_PREFIX,
    BodyTooLarge,
    BrokenImage,
    Fault,
    ImageTooLarge,
    InvalidRequest,
    UnsupportedImage,
    kind_of,
)
from server.predictor import Predictor
from server.registry.model_cache import bundles_of
from server.schemas import Embeddings, ImageDetections, LabelScore

# In this process no other client has to wait.
MAX_LABELS, MAX_PASSES = 100_000, 1000
TIMEOUT_S = 600.0
# Refusals of an image or its texts; the next record may pass.
REFUSALS = (BrokenImage, UnsupportedImage, ImageTooLarge, BodyTooLarge, InvalidRequest, PromptError)
_REFUSED = {
    TYPE_PREFIX + kind.slug: kind.slug.replace("-", " ") for error, kind in KINDS.items() if issubclass(error, REFUSALS)
}


class BackendError(Exception):
    """A request got no answer; the message is one sentence."""


class RecordRefused(BackendError):
    """A request got no answer because of its image or its texts; `kind` is that of the problem, as "broken image"."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Model:
    """A model as reports name it, with its defaults for a request."""

    name: str
    family: str
    version: str
    tasks: tuple[str, ...]
    weights_sha256: str
    defaults: Mapping[str, Any]

    @property
    def box_threshold(self) -> float:
        """Default for the least score of a detection."""
        return float(self.defaults["box_threshold"])


class Backend(Protocol):
    """A model that answers for one image, given as the bytes of its file."""

    model: Model

    def detect(
        self,
        image: bytes,
        labels: Sequence[str],
        *,
        box_threshold: float | None = None,
        max_detections: int | None = None,
        nms_iou: float | None = None,
    ) -> ImageDetections:
        """Boxes x0, y0, x1, y1; options default to the model's own."""

    def classify(self, image: bytes, labels: Sequence[str], *, templates: Sequence[str] = ()) -> list[LabelScore]:
        """Scores of all labels, best first."""

    def embed(self, image: bytes, texts: Sequence[str]) -> Embeddings:
        """Unit-length embeddings of the image and of the texts."""

    def close(self) -> None:
        """End its threads or connections."""


class InProcessBackend:
    """Bundles, or the ones that ship with the server, run in this process, whatever the number of labels."""

    def __init__(
        self, bundles: Sequence[Path], name: str | None, *, task: str, allow_uncertified: bool = False
    ) -> None:
        self._predictor = Predictor(
            bundle=bundles_of(name, bundles),
            allow_uncertified=allow_uncertified,
            max_labels=MAX_LABELS,
            max_passes=MAX_PASSES,
        )
        try:
            self.model = _select([_of_manifest(manifest) for manifest in self._predictor.models], name, task)
        except BackendError:
            self.close()
            raise

    def detect(self, image: bytes, labels: Sequence[str], **options: Any) -> ImageDetections:
        with _backend_errors():
            return self._predictor.detect(image, labels, model=self.model.name, **options).results[0]

    def classify(self, image: bytes, labels: Sequence[str], *, templates: Sequence[str] = ()) -> list[LabelScore]:
        with _backend_errors():
            answer = self._predictor.classify(image, labels, model=self.model.name, templates=templates)
        return answer.results[0].scores

    def embed(self, image: bytes, texts: Sequence[str]) -> Embeddings:
        with _backend_errors():
            answer = self._predictor.similarity(image, texts, model=self.model.name, embeddings=True)
        return _embeddings(answer.embeddings)

    def close(self) -> None:
        self._predictor.close()


class HttpBackend:
    """A running server, whose limits apply."""

    def __init__(self, url: str, name: str | None, *, task: str, api_key: str | None = None) -> None:
        try:
            self._client = Client(url, api_key=api_key, timeout=TIMEOUT_S)
        except (ClientError, ValueError) as error:
            raise BackendError(str(error)) from error
        try:
            self.model = _select([_of_answer(body) for body in self._client.models().models], name, task)
        except ClientError as error:
            self.close()
            raise BackendError(str(error)) from error

    def detect(self, image: bytes, labels: Sequence[str], **options: Any) -> ImageDetections:
        return self._answer("detect", image, labels=list(labels), **options).results[0]

    def classify(self, image: bytes, labels: Sequence[str], *, templates: Sequence[str] = ()) -> list[LabelScore]:
        return self._answer("classify", image, labels=list(labels), templates=list(templates) or None).results[0].scores

    def embed(self, image: bytes, texts: Sequence[str]) -> Embeddings:
        return _embeddings(self._answer("similarity", image, texts=list(texts), embeddings=True).embeddings)

    def close(self) -> None:
        self._client.close()

    def _answer(self, method: str, image: bytes, **options: Any) -> Any:
        try:
            return getattr(self._client, method)(image, model=self.model.name, **options)
        except ImageError as error:
            raise RecordRefused(str(error), kind="image") from error
        except ProblemError as error:
            if error.type in _REFUSED or error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # a proxy's too
                raise RecordRefused(str(error), kind=_REFUSED.get(error.type, "body too large")) from error
            raise BackendError(str(error)) from error
        except ClientError as error:
            raise BackendError(str(error)) from error


@contextmanager
def open_backend(args: argparse.Namespace, *, task: str, name: str | None = None) -> Iterator[Backend]:
    """Open the backend of a command's arguments for a task; `name` overrides `--model`."""
    name = name or args.model
    backend: Backend = (
        HttpBackend(args.url, name, task=task, api_key=api_key(args))
        if args.url
        else InProcessBackend(args.bundle or (), name, task=task, allow_uncertified=args.allow_uncertified)
    )
    try:
        yield backend
    finally:
        backend.close()


def _of_manifest(manifest: Manifest) -> Model:
    rules = manifest.detection or manifest.classification
    assert rules is not None, "every manifest has the rules of its task"
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


def _select(models: Sequence[Model], name: str | None, task: str) -> Model:
    """The model called `name`, or of that family; without a name the first that can do the task."""
    capable = [model for model in models if task in model.tasks and name in (None, model.name, model.family)]
    if not capable:
        known = [f"{model.name} ({', '.join(model.tasks)})" for model in models]
        raise BackendError(f"no model{'' if name is None else f' {name!r}'} can {task}; there are {known}")
    return capable[0]


@contextmanager
def _backend_errors() -> Iterator[None]:
    try:
        yield
    except REFUSALS as error:
        raise RecordRefused(str(error), kind=kind_of(error).slug.replace("-", " ")) from error
    except Fault as error:
        raise BackendError(str(error)) from error


def _embeddings(found: Embeddings | None) -> Embeddings:
    if found is None:
        raise BackendError("the server returned no embeddings")
    return found
