"""`Predictor`: inference in this process, without HTTP; and `InferenceService`, which the app is built on too."""

import asyncio
import io
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypedDict, TypeVar, Unpack, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ValidationError

from server.bundle import Bundle
from server.contract.image_file import upright
from server.contract.manifest import Manifest, Task
from server.contract.regular_files import is_device, read_regular
from server.contract.text import PromptError
from server.errors import BrokenImage, Fault, FieldFault, InvalidRequest, NotReady, invalid_request
from server.inference.decoders import Decoders
from server.inference.pipeline import Pipeline
from server.inference.request_images import image_names
from server.registry.model_registry import ModelRegistry, open_bundles
from server.request_context import RequestContext
from server.requests import BoxFormat, ClassifyRequest, DetectRequest, EmbedRequest, SimilarityRequest
from server.schemas import ClassifyAnswer, DetectAnswer, EmbedAnswer, SimilarityAnswer
from server.settings import Settings, read_settings
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import open_tracing

T = TypeVar("T")
Request = TypeVar("Request", bound=BaseModel)
# A file by its path or open, its bytes, a decoded image, or RGB pixels (uint8, height x width x 3).
ImageInput = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]
_ACCEPTED = "a path, bytes, an open file, a PIL image or a numpy array (uint8, height x width x 3, RGB)"
ImageInputs = ImageInput | Sequence[ImageInput]
Answer = DetectAnswer | ClassifyAnswer | SimilarityAnswer
# Exceptions for a request that gets no answer; `server.errors` draws their tree.
Problem = Fault | PromptError
CLOSE_S = 1.0  # for threads that have nothing more to do
_CLOSED = "the predictor is closed"
_REQUESTS: dict[Task, type[DetectRequest | ClassifyRequest | SimilarityRequest]] = {
    "detect": DetectRequest,
    "classify": ClassifyRequest,
    "similarity": SimilarityRequest,
}


class CallOptions(TypedDict, total=False):
    """Options of every call; with `on_error` skip, images without a result are in the answer's `problems`."""

    model: str | None
    on_error: Literal["raise", "skip"]


class DetectOptions(CallOptions, total=False):
    """Options of a detection, as the fields of `POST /detect`."""

    prompt: str | None
    box_threshold: float | None
    label_thresholds: Sequence[float | None]
    text_threshold: float | None
    nms_iou: float | None
    nms_across_labels: bool
    max_detections: int | None
    shorter: int | None
    longer: int | None
    box_format: BoxFormat
    label_scores: bool


class ClassifyOptions(CallOptions, total=False):
    """Options of a classification, as the fields of `POST /classify`."""

    templates: str | Sequence[str]
    multi_label: bool
    top_k: int | None


class SimilarityOptions(CallOptions, total=False):
    """Options of a comparison, as the fields of `POST /similarity`."""

    embeddings: bool


class InferenceService:
    """Metrics, traces, model registry and pipeline as the settings ask for; the caller brings the event loop.

    Images are decoded in this process, unless other `decoders` are given.
    """

    def __init__(self, settings: Settings, *, decoders: Decoders | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.tracing = open_tracing(settings)
        self.registry = ModelRegistry(settings, self.metrics, self.tracing)
        self.pipeline = Pipeline(settings, self.metrics, self.registry, decoders)
        self.finished = True
        self._stop_by: float | None = None

    def load(self, bundles: Iterable[Bundle] | None = None, *, task: Task | None = None) -> None:
        """Serve `bundles`; without them those of the settings, with `task` only the ones that can do it."""
        Image.init()  # registers Pillow's plugins, for which the first image would wait
        self.pipeline.decoders.start()
        self.registry.load(open_bundles(self.settings, task=task) if bundles is None else bundles)

    def stop(self) -> None:
        """Start `shutdown_timeout_s`, within which accepted requests may finish."""
        self._stop_by = time.monotonic() + self.settings.shutdown_timeout_s

    def close(self) -> None:
        """Finish what was accepted and end the threads; `finished` tells whether all have ended."""
        until = None if self._stop_by is None else max(self._stop_by, time.monotonic() + CLOSE_S)
        self.finished = self.registry.close(until=until)
        self.pipeline.close()


class Predictor:
    """The models of some bundles, run in this process; its methods may be called from several threads.

        with Predictor(bundle=["server/bundles/grounding-dino-mini"]) as predictor:
            answer = predictor.detect("street.jpg", labels=["a dog", "a bicycle"])

    Images are paths, open files, bytes of files, PIL images or numpy arrays of RGB, one or a list. Answers are those of
    the HTTP endpoints; a request without one raises a `Problem`: a `Fault` of `server.errors`, or a `PromptError`.
    Settings are those of `openset serve`, from the environment too; bundles that fail their checks raise BundleError.
    With `task`, only the bundles that can do it are opened.
    """

    def __init__(self, settings: Settings | None = None, *, task: Task | None = None, **given: Any) -> None:
        if settings and given:
            raise TypeError(f"give either settings or {', '.join(given)}, not both")
        self._service = InferenceService(settings or read_settings(**{"warm_up": "none"} | given))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="predictor", daemon=True)
        self._closing, self._accepting = threading.Lock(), threading.Lock()
        self._closed = False
        self._thread.start()
        try:
            self._service.load(task=task)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def models(self) -> tuple[Manifest, ...]:
        """Manifests of the models; the first that can do a task is its default."""
        return tuple(model.bundle.manifest for model in self._service.registry.models)

    def detect(
        self, images: ImageInputs, labels: str | Sequence[str] = (), **options: Unpack[DetectOptions]
    ) -> DetectAnswer:
        """Boxes of `labels`, or of the phrases of `prompt`, in each image; x0, y0, x1, y1 in pixels by default."""
        request, context = _request(DetectRequest, images=images, labels=labels, **options)
        return self._wait(self._service.pipeline.detect(request, context))

    def detect_drawn(
        self, image: ImageInput, labels: str | Sequence[str] = (), **options: Unpack[DetectOptions]
    ) -> tuple[DetectAnswer, bytes]:
        """As `detect` for one image; also that image as PNG with the boxes drawn on it."""
        request, context = _request(DetectRequest, images=image, labels=labels, **options)
        return self._wait(self._service.pipeline.detect_drawn(request, context))

    def classify(
        self, images: ImageInputs, labels: str | Sequence[str], **options: Unpack[ClassifyOptions]
    ) -> ClassifyAnswer:
        """Scores of `labels` for each image, best first."""
        request, context = _request(ClassifyRequest, images=images, labels=labels, **options)
        return self._wait(self._service.pipeline.classify(request, context))

    def similarity(
        self, images: ImageInputs, texts: str | Sequence[str], **options: Unpack[SimilarityOptions]
    ) -> SimilarityAnswer:
        """Cosine of each image (rows) with each of `texts` (columns)."""
        request, context = _request(SimilarityRequest, images=images, texts=texts, **options)
        return self._wait(self._service.pipeline.similarity(request, context))

    def embed(
        self, images: ImageInputs = (), texts: str | Sequence[str] = (), **options: Unpack[CallOptions]
    ) -> EmbedAnswer:
        """Unit-length embeddings of images, of texts, or of both, in one space."""
        request, context = _request(EmbedRequest, images=images, texts=texts, **options)
        return self._wait(self._service.pipeline.embed(request, context))

    @overload
    def each(
        self, requests: Iterable[Mapping[str, Any]], *, task: Literal["detect"] = "detect"
    ) -> Iterator[DetectAnswer | Problem]: ...
    @overload
    def each(
        self, requests: Iterable[Mapping[str, Any]], *, task: Literal["classify"]
    ) -> Iterator[ClassifyAnswer | Problem]: ...
    @overload
    def each(
        self, requests: Iterable[Mapping[str, Any]], *, task: Literal["similarity"]
    ) -> Iterator[SimilarityAnswer | Problem]: ...
    def each(self, requests: Iterable[Mapping[str, Any]], *, task: Task = "detect") -> Iterator[Answer | Problem]:
        """For each request its answer, or the problem that kept it from one, in order.

        A request holds the arguments of the task's method: `{"images": path, "labels": ["a dog"]}`. Requests are read
        as answers are taken, as many ahead as keep batches full: two of `max_batch` images.
        """
        ahead: deque[tuple[int, Future[Answer]]] = deque()
        answer = getattr(self._service.pipeline, task)
        try:
            for fields in requests:
                size, work = 1, Future[Answer]()
                try:
                    request, context = _request(_REQUESTS[task], **fields)
                    size = len(request.pictures)
                except (Fault, PromptError) as problem:
                    request = None
                    work.set_exception(problem)
                while ahead and sum(size for size, _ in ahead) + size > 2 * self._service.settings.max_batch:
                    yield self._outcome(ahead.popleft()[1])
                ahead.append((size, self._submit(answer(request, context)) if request else work))
            while ahead:
                yield self._outcome(ahead.popleft()[1])
        finally:
            for _, work in ahead:
                work.cancel()

    def close(self) -> None:
        """Finish what was accepted and end the threads; calls that could not be finished raise NotReady."""
        with self._closing:
            if self._loop.is_closed():
                return
            with self._accepting:
                self._closed = True
            self._service.close()
            asyncio.run_coroutine_threadsafe(_cancel_other_tasks(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._accepting:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise NotReady(_CLOSED)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        pending = self._submit(work)
        try:
            return self._result(pending)
        except BaseException:
            pending.cancel()  # where the wait was interrupted
            raise

    def _result(self, work: "Future[T]") -> T:
        try:
            return work.result()
        except (CancelledError, NotReady, RuntimeError):  # RuntimeError: from a thread pool that has ended
            if self._closed:
                raise NotReady(_CLOSED) from None
            raise

    def _outcome(self, work: "Future[Answer]") -> Answer | Problem:
        try:
            return self._result(work)
        except (Fault, PromptError) as problem:
            return problem


async def _cancel_other_tasks() -> None:
    """Cancel what the loop still runs: it would wait for threads that have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _request(kind: type[Request], *, images: ImageInputs = (), **fields: Any) -> tuple[Request, RequestContext]:
    """The request that the arguments of a method make, and its context; InvalidRequest names a field that is wrong."""
    listed: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    for image in listed:
        if fault := _fault_of(image):
            raise InvalidRequest([FieldFault("images", fault)])
    given = {name: value for name, value in fields.items() if value is not None}
    numbered = image_names(len(listed))
    names = (str(each) if isinstance(each, str | Path) else name for each, name in zip(listed, numbered, strict=True))
    context = RequestContext(image_names=tuple(names))
    pictures: list[bytes | Fault] = []
    for index, image in enumerate(listed):
        try:
            pictures.append(_encoded(image))
        except BrokenImage as fault:
            fault.image_index = index
            if given.get("on_error") != "skip":
                raise
            pictures.append(fault)
    try:
        return kind(**given, images=tuple(pictures)), context
    except ValidationError as error:
        raise invalid_request(error, fields=kind.model_fields) from None


def _fault_of(image: object) -> str | None:
    """The reason why this cannot be an image, or None."""
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        return None if fits else f"an array must be uint8, height x width x 3, RGB, not {image.dtype}, {image.shape}"
    if isinstance(image, str) and image.lower().startswith(("http://", "https://")):
        return f"{image} is a URL, and images are not fetched here: download it and give the file"
    if isinstance(image, str | Path | bytes | Image.Image) or callable(getattr(image, "read", None)):
        return None
    return f"an image is {_ACCEPTED}, not {type(image).__name__}"


def _encoded(image: ImageInput) -> bytes:
    """The bytes of an image file; a PIL image and an array are encoded without loss, upright."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        encoded = io.BytesIO()
        try:
            plain = upright(image).copy()
            plain.info.clear()  # damaged entries would be written too
            plain.save(encoded, "TIFF")
        except Exception as error:  # it may read its file as late as here
            raise BrokenImage(f"an image cannot be encoded: {error}") from error
        return encoded.getvalue()
    if is_device(image):
        raise BrokenImage("an open file is a device, which may have no end")
    try:
        data = read_regular(image) if isinstance(image, str | Path) else image.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file, a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        name = image if isinstance(image, str | Path) else "an open file"
        raise BrokenImage(f"{name} cannot be read: {reason}") from None
    if not isinstance(data, bytes):
        raise BrokenImage(f"an open file gives {type(data).__name__}, not bytes: open it with mode 'rb'")
    return data
