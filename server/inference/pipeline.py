"""A request's way from bytes to answer: the same for HTTP and for the shell."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.bundle import TEXT_BATCH
from server.contract.manifest import ClassificationRules, DetectionRules, Task
from server.contract.postprocess import Detection, PassOutput, Thresholds, class_scores, merged_detections
from server.contract.text import Prompt
from server.errors import FieldFault, InvalidRequest
from server.inference import request_limits as question
from server.inference import responses as answers
from server.inference.batching import Reservation
from server.inference.drawing import draw
from server.inference.fair_queue import FairSemaphore
from server.inference.images import decode
from server.inference.prompt_cache import PromptCache
from server.inference.stage_timer import StageTimer
from server.inference.text_encoding import in_halves, told_as_faults
from server.middleware.request_context import RequestContext
from server.registry.model_registry import LoadedModel, ModelInput, ModelOutput, ModelRegistry, run_attributes
from server.schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    DetectAnswer,
    DetectRequest,
    Embeddings,
    ImageScores,
    SimilarityAnswer,
    SimilarityRequest,
)
from server.settings import Settings
from server.telemetry.metrics import Metrics

Float32 = npt.NDArray[np.float32]
ENDING_S = 1.0  # for threads that have nothing more to do
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A decoded image as model input; `image` is kept only where it will be drawn on."""

    pixels: Float32
    size: tuple[int, int]  # (height, width) of the upright image
    image: Image.Image | None
    decode_s: float
    preprocess_s: float
    ended: float  # when it was ready, by `time.monotonic`

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        _, height, width = self.pixels.shape
        return height, width


@dataclass(frozen=True, eq=False)
class Found:
    """One image's detections, boxes x0, y0, x1, y1 in its pixels."""

    prepared: Prepared
    detections: list[Detection]


class Pipeline:
    """Decodes in threads, encodes texts through the cache, runs in batches, and words the answer."""

    def __init__(self, settings: Settings, metrics: Metrics, registry: ModelRegistry) -> None:
        self.settings, self.metrics, self.registry = settings, metrics, registry
        self.stop_by: float | None = None
        self.ended = True
        self._pool = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="images")
        self._decoding = FairSemaphore(2 * settings.pool_threads)  # the next is there when a thread gets free
        # Of its own, so that a request is read (or refused with 429) and answered while all other threads decode.
        self._short = ThreadPoolExecutor(1, thread_name_prefix="short")
        self._cache = PromptCache(settings.prompt_cache_bytes, metrics)

    def stop(self) -> None:
        """The server stops: the setting's time for what was accepted begins."""
        self.stop_by = time.monotonic() + self.settings.shutdown_timeout_s

    def close(self) -> None:
        """Finish what was accepted; then end the threads. `ended` tells whether all of them have."""
        until = None if self.stop_by is None else max(self.stop_by, time.monotonic() + ENDING_S)
        self.ended = self.registry.close(until=until)
        for threads in (self._pool, self._short):
            threads.shutdown(wait=False, cancel_futures=True)

    def forget(self, served: LoadedModel) -> None:
        """Drop what is kept for a bundle that is no longer served."""
        self._cache.drop(served)

    async def in_pool(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a slow function off the event loop."""
        return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    async def in_short(self, function: Callable[[], T]) -> T:
        """Run what takes milliseconds off the event loop, without waiting for images."""
        return await asyncio.wrap_future(self._short.submit(function))

    async def detect(self, request: DetectRequest, context: RequestContext) -> DetectAnswer:
        """Find what the request names in each of its images."""
        answer, _ = await self._detect(request, context, drawn=False)
        return answer

    async def detect_drawn(self, request: DetectRequest, context: RequestContext) -> tuple[DetectAnswer, bytes]:
        """As `detect` for one image; also that image, upright, as PNG with the detections drawn on it."""
        if len(request.pictures) != 1:
            raise InvalidRequest([FieldFault("images", f"{len(request.pictures)} images, drawing takes exactly one")])
        answer, (found,) = await self._detect(request, context, drawn=True)
        assert found.prepared.image is not None, "kept for drawing"
        return answer, await self.in_pool(draw, found.prepared.image, found.detections)

    async def classify(self, request: ClassifyRequest, context: RequestContext) -> ClassifyAnswer:
        """Score the labels for each image."""
        served = self._choose(request.model, "classify", context)
        rules = _classification(served)
        templates = request.templates or rules.templates
        count = len(request.labels) * len(templates)
        self._check_counts(request.pictures, "labels", count, counted="labels (times templates)")
        with self._progress(context, served) as progress:
            texts = [template.replace("{}", label) for label in request.labels for template in templates]
            images, embeds = await self._embed(served, request.pictures, texts, context, progress)

            def words() -> list[ImageScores]:
                scores = class_scores(
                    images @ _ensembles(embeds, len(templates)).T,
                    logit_scale=rules.logit_scale,
                    logit_bias=rules.logit_bias,
                    multi_label=request.multi_label,
                )
                return [answers.image_scores(row, request.labels, top_k=request.top_k) for row in scores]

            results = await self._postprocess(served, words, progress)
            return ClassifyAnswer(
                model=answers.model_id(served.bundle.manifest), results=results, timings_ms=progress.timings_ms()
            )

    async def similarity(self, request: SimilarityRequest, context: RequestContext) -> SimilarityAnswer:
        """The cosine of each image with each text."""
        served = self._choose(request.model, "similarity", context)
        self._check_counts(request.pictures, "texts", len(request.texts))
        with self._progress(context, served) as progress:
            images, texts = await self._embed(served, request.pictures, request.texts, context, progress)

            def words() -> tuple[list[list[float]], Embeddings | None]:
                cosines = answers.rows(images @ texts.T, answers.SCORE_DIGITS)
                return cosines, answers.embeddings(images, texts) if request.embeddings else None

            cosines, embeddings = await self._postprocess(served, words, progress)
            return SimilarityAnswer(
                model=answers.model_id(served.bundle.manifest),
                similarity=cosines,
                logit_scale=_classification(served).logit_scale,
                embeddings=embeddings,
                timings_ms=progress.timings_ms(),
            )

    async def _detect(
        self, request: DetectRequest, context: RequestContext, *, drawn: bool
    ) -> tuple[DetectAnswer, list[Found]]:
        served = self._choose(request.model, "detect", context)
        self._check_counts(request.pictures, "labels", len(request.labels))
        rules = _detection(served)
        thresholds = question.thresholds_of(request, rules)
        with self._progress(context, served) as progress:
            prompts, outputs = await self._run_detector(served, request, context, progress, thresholds, drawn=drawn)

            def words() -> list[Found]:
                return [
                    Found(
                        prepared,
                        merged_detections(
                            passes,
                            size=prepared.size,
                            rules=rules,
                            thresholds=thresholds,
                            input_size=prepared.input_size,
                            with_label_scores=request.label_scores,
                        ),
                    )
                    for prepared, passes in outputs
                ]

            found = await self._postprocess(served, words, progress, long=len(prompts) > 1)
            labels = [label for prompt in prompts for label in prompt.labels]
            answer = DetectAnswer(
                model=answers.model_id(served.bundle.manifest),
                passes=len(prompts),
                results=[
                    answers.image_detections(
                        image.detections, labels, size=image.prepared.size, box_format=request.box_format
                    )
                    for image in found
                ],
                timings_ms=progress.timings_ms(),
            )
            return answer, found

    async def _run_detector(
        self,
        served: LoadedModel,
        request: DetectRequest,
        context: RequestContext,
        progress: StageTimer,
        thresholds: Thresholds,
        *,
        drawn: bool,
    ) -> tuple[tuple[Prompt, ...], list[tuple[Prepared, tuple[PassOutput, ...]]]]:
        names = question.image_names(len(request.pictures))
        with served.batcher.places(len(names), client=context.client, priority=context.priority) as places:
            prompts = await asyncio.wrap_future(
                served.texts.submit(question.prompts_of, request, served.bundle.prompts, self.settings.max_passes)
            )
            question.refuse_too_many_label_scores(request, prompts, thresholds)
            for prompt in prompts:
                served.metrics.prompt_tokens.observe(len(prompt))
            text = asyncio.ensure_future(self._prompt_features(served, prompts, context, progress))
            text.add_done_callback(lambda task: task.cancelled() or task.exception())  # an image may fail first
            # Label scores of one pass may be those of a weak query of another.
            least = None if request.label_scores else thresholds.box_threshold

            async def one(data: bytes, name: str) -> tuple[Prepared, tuple[PassOutput, ...]]:
                prepared = await self._prepare(served, data, name, context, progress, keep_image=drawn)
                item = ModelInput(prepared.pixels, prompts, tuple(await text), least, context.trace)
                output = await self._run(served, places, item, progress)
                assert isinstance(output, tuple), "a detector gives what its passes found"
                return prepared, output

            try:
                outputs = await _together([one(data, name) for data, name in zip(request.pictures, names, strict=True)])
            finally:
                text.cancel()
        return prompts, outputs

    async def _embed(
        self,
        served: LoadedModel,
        pictures: Sequence[bytes],
        texts: Sequence[str],
        context: RequestContext,
        progress: StageTimer,
    ) -> tuple[Float32, Float32]:
        """Unit embeddings of images [I, D] and texts [T, D]."""
        with served.batcher.places(len(pictures), client=context.client, priority=context.priority) as places:

            async def image(data: bytes, name: str) -> Float32:
                prepared = await self._prepare(served, data, name, context, progress, keep_image=False)
                embed = await self._run(served, places, ModelInput(prepared.pixels, trace=context.trace), progress)
                assert not isinstance(embed, tuple), "an image encoder gives an embedding"
                return embed

            async def text() -> Float32:
                with progress.timed("text_encode"):
                    return np.stack(await self._text_embeds(served, texts, context))

            names = question.image_names(len(pictures))
            *images, text_embeds = await _together(
                [*(image(data, name) for data, name in zip(pictures, names, strict=True)), text()]
            )
        return np.stack(images), text_embeds

    async def _prepare(
        self,
        served: LoadedModel,
        data: bytes,
        name: str,
        context: RequestContext,
        progress: StageTimer,
        *,
        keep_image: bool,
    ) -> Prepared:
        def prepare() -> Prepared:
            started = time.monotonic()
            image = decode(data, name=name, max_pixels=self.settings.max_image_pixels)
            decoded = time.monotonic()
            pixels = served.bundle.preprocess(image)
            ended = time.monotonic()
            return Prepared(
                pixels=pixels,
                size=(image.height, image.width),
                image=image if keep_image else None,
                decode_s=decoded - started,
                preprocess_s=ended - decoded,
                ended=ended,
            )

        async with self._decoding.one(client=context.client, priority=context.priority):
            prepared = await self.in_pool(prepare)
        progress.took("decode", prepared.decode_s, ended=prepared.ended - prepared.preprocess_s)
        progress.took("preprocess", prepared.preprocess_s, ended=prepared.ended)
        self.metrics.decode_duration.observe(prepared.decode_s)
        self.metrics.image_pixels.observe(prepared.size[0] * prepared.size[1])
        served.metrics.preprocess_duration.observe(prepared.preprocess_s)
        return prepared

    async def _run(
        self,
        served: LoadedModel,
        places: "Reservation[ModelInput, ModelOutput]",
        item: ModelInput,
        progress: StageTimer,
    ) -> ModelOutput:
        future = places.submit(item)
        progress.queued(future)
        done = await asyncio.wrap_future(future)
        progress.took("queue", done.queue_s, ended=done.started)
        attributes, ended = run_attributes(served.name, done.run), done.started + done.infer_s
        progress.took("infer", done.infer_s, ended=ended, attributes=attributes, to=done.run.link)
        return done.value

    async def _postprocess(
        self, served: LoadedModel, words: Callable[[], T], progress: StageTimer, *, long: bool = False
    ) -> T:
        with progress.timed("postprocess"), served.metrics.postprocess_duration.time():
            return await (self.in_pool(words) if long else self.in_short(words))

    async def _prompt_features(
        self, served: LoadedModel, prompts: Sequence[Prompt], context: RequestContext, progress: StageTimer
    ) -> list[Float32]:
        async def compute(missing: Sequence[int]) -> list[Float32]:
            found = []
            for place in missing:  # one at a time: others get their turn between two, and memory stays flat
                found += await _in_thread_of(served, context, partial(served.bundle.encode_prompts, [prompts[place]]))
            return found

        with progress.timed("text_encode"):
            return await self._cache.get(served, [prompt.key for prompt in prompts], compute)

    async def _text_embeds(self, served: LoadedModel, texts: Sequence[str], context: RequestContext) -> list[Float32]:
        def compute(missing: Sequence[int]) -> Awaitable[list[Float32]]:
            return _in_thread_of(served, context, lambda: _encoded(served, [texts[place] for place in missing]))

        # A text too long is its own request's fault: found here, before others could wait for a run it fails.
        await asyncio.wrap_future(served.texts.submit(served.bundle.sentences.encode, texts))
        return await self._cache.get(served, texts, compute)

    def _check_counts(self, pictures: Sequence[bytes], field: str, texts: int, *, counted: str = "") -> None:
        settings = self.settings
        question.refuse_too_many_images(len(pictures), settings)
        if texts > settings.max_labels:
            reason = f"{texts} {counted or field}, at most {settings.max_labels} are accepted"
            raise InvalidRequest([FieldFault(field, reason)])

    def _choose(self, model: str | None, task: Task, context: RequestContext) -> LoadedModel:
        served = self.registry.choose(model, task)
        context.model = served.name
        return served

    @contextmanager
    def _progress(self, context: RequestContext, served: LoadedModel) -> Iterator[StageTimer]:
        """How far a request has come, which holds its bundle meanwhile. Nothing may be awaited since it was chosen."""
        progress = StageTimer(context.trace)
        try:
            with served.refcount.one():
                yield progress
        except asyncio.CancelledError:
            self.metrics.cancelled.labels(progress.stage).inc()
            raise
        finally:
            context.timings_ms |= progress.timings_ms()


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _in_thread_of(
    served: LoadedModel, context: RequestContext, encode: Callable[[], list[Float32]]
) -> list[Float32]:
    def timed() -> list[Float32]:
        batcher = served.batcher
        with served.metrics.text_encode_duration.time(), told_as_faults(served.name, lambda: batcher.retry_after):
            return encode()

    async with served.text_slots.one(client=context.client, priority=context.priority):
        return await asyncio.wrap_future(served.texts.submit(timed))


def _encoded(served: LoadedModel, texts: Sequence[str]) -> list[Float32]:
    starts = range(0, len(texts), TEXT_BATCH)
    batches = (in_halves(served.bundle.embed_texts, texts[start : start + TEXT_BATCH]) for start in starts)
    return [row.copy() for batch in batches for row in batch]


def _ensembles(embeds: Float32, count: int) -> Float32:
    """[labels, D] unit means of each label's `count` template embeddings [labels * count, D]."""
    means = embeds.reshape(-1, count, embeds.shape[1]).mean(1)  # [labels, D]
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def _detection(served: LoadedModel) -> DetectionRules:
    rules = served.bundle.manifest.detection
    assert rules is not None, "the manifest gives every detector its rules"
    return rules


def _classification(served: LoadedModel) -> ClassificationRules:
    rules = served.bundle.manifest.classification
    assert rules is not None, "the manifest gives every encoder its rules"
    return rules
