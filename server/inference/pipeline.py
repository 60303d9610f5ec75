"""Inference pipeline: decode in threads, encode texts through the cache, run in batches, build the response."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from server.contract.manifest import Task
from server.contract.postprocess import Detection, PassOutput, Thresholds, class_scores, merged_detections
from server.contract.text import Prompt, caption_phrases, label_phrases
from server.errors import FieldFault, InvalidRequest
from server.inference import responses
from server.inference.batching import Reservation
from server.inference.decoders import Decoders, ThreadDecoders
from server.inference.drawing import Mark
from server.inference.fair_queue import FairSemaphore
from server.inference.images import PreparedImage, Work
from server.inference.loaded_model import LoadedModel, LoadedModels, ModelInput, ModelOutput
from server.inference.prompt_cache import PromptCache
from server.request_context import RequestContext
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
# About ten megabytes of JSON.
MAX_LABEL_SCORES = 1_000_000
# Characters of a template with its label, each of which may have 1000: no template repeats a long label.
MAX_TEXT = 2000
P = ParamSpec("P")
T = TypeVar("T")


class Pipeline:
    """Answers requests with the loaded `models`; its coroutines run on one event loop."""

    def __init__(
        self, settings: Settings, metrics: Metrics, models: LoadedModels, decoders: Decoders | None = None
    ) -> None:
        self.settings, self.metrics, self._models = settings, metrics, models
        self.decoders = decoders or ThreadDecoders(settings)
        self._pool = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="slow")
        # A thread of its own, so that requests are answered while all others decode.
        self._short = ThreadPoolExecutor(1, thread_name_prefix="short")
        # Another for bodies, one at a time, since some take longer and their clients take turns.
        self._bodies, self._reading = ThreadPoolExecutor(1, thread_name_prefix="bodies"), FairSemaphore(1)
        self._cache = PromptCache(settings.prompt_cache_bytes, metrics)

    def close(self) -> None:
        """End the decoders, and the threads, whose work is done once the models are closed."""
        self.decoders.close()
        for threads in (self._pool, self._short, self._bodies):
            threads.shutdown(wait=False, cancel_futures=True)

    def forget(self, model: LoadedModel) -> None:
        """Drop the cached text features of a model that is no longer served."""
        self._cache.drop(model)

    async def in_pool(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a slow function off the event loop."""
        return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    async def in_short(self, function: Callable[[], T]) -> T:
        """Run a function of some milliseconds off the event loop, without waiting for images."""
        return await asyncio.wrap_future(self._short.submit(function))

    async def in_turn(self, function: Callable[[], T], context: RequestContext) -> T:
        """Run a function that reads a body off the event loop, when it is the client's turn."""
        async with self._reading.slot(client=context.client, priority=context.priority):
            return await asyncio.wrap_future(self._bodies.submit(function))

    async def detect(self, request: DetectRequest, context: RequestContext) -> DetectAnswer:
        """Find the request's labels or phrases in each of its images."""
        answer, _ = await self._detect(request, context)
        return answer

    async def detect_drawn(self, request: DetectRequest, context: RequestContext) -> tuple[DetectAnswer, bytes]:
        """As `detect` for one image; also that image, upright, as PNG with the detections drawn on it."""
        if len(request.pictures) != 1:
            raise InvalidRequest([FieldFault("images", f"{len(request.pictures)} images, drawing takes exactly one")])
        answer, ((_, detections),) = await self._detect(request, context)
        marks = [Mark(found.box, found.label, found.label_id, found.score) for found in detections]
        # Decoded again: kept until its turn comes, the image would take twenty times the memory of its file.
        drawn = await self.decoders.run(self._work(request.pictures[0], "the image")._replace(marks=marks), context)
        assert isinstance(drawn, bytes), "a drawing is a PNG"
        return answer, drawn

    async def classify(self, request: ClassifyRequest, context: RequestContext) -> ClassifyAnswer:
        """Score the labels for each image."""
        model = self._choose(request.model, "classify", context)
        rules = model.classification
        templates = request.templates or rules.templates
        count = len(request.labels) * len(templates)
        self._check_counts(request.pictures, "labels", count, counted="labels (times templates)")
        texts = _fill(templates, request.labels)
        with self._timed(context, model):
            images, embeds = await self._embed(model, request.pictures, texts, context)

            def score() -> list[ImageScores]:
                scores = class_scores(
                    images @ _ensembles(embeds, len(templates)).T,
                    logit_scale=rules.logit_scale,
                    logit_bias=rules.logit_bias,
                    multi_label=request.multi_label,
                )
                return [responses.image_scores(row, request.labels, top_k=request.top_k) for row in scores]

            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                results = await self.in_short(score)
            return ClassifyAnswer(
                model=responses.model_id(model.bundle.manifest), results=results, timings_ms=context.timer.timings_ms()
            )

    async def similarity(self, request: SimilarityRequest, context: RequestContext) -> SimilarityAnswer:
        """The cosine of each image with each text."""
        model = self._choose(request.model, "similarity", context)
        self._check_counts(request.pictures, "texts", len(request.texts))
        with self._timed(context, model):
            images, texts = await self._embed(model, request.pictures, request.texts, context)

            def compare() -> tuple[list[list[float]], Embeddings | None]:
                cosines = responses.rounded_rows(images @ texts.T, responses.SCORE_DIGITS)
                return cosines, responses.embeddings(images, texts) if request.embeddings else None

            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                cosines, embeddings = await self.in_short(compare)
            return SimilarityAnswer(
                model=responses.model_id(model.bundle.manifest),
                similarity=cosines,
                logit_scale=model.classification.logit_scale,
                embeddings=embeddings,
                timings_ms=context.timer.timings_ms(),
            )

    async def _detect(
        self, request: DetectRequest, context: RequestContext
    ) -> tuple[DetectAnswer, list[tuple[PreparedImage, list[Detection]]]]:
        model = self._choose(request.model, "detect", context)
        self._check_counts(request.pictures, "labels", len(request.labels))
        thresholds = _thresholds(request, model)
        with self._timed(context, model):
            prompts, outputs = await self._run_detector(model, request, context, thresholds)

            def find() -> list[tuple[PreparedImage, list[Detection]]]:
                return [
                    (
                        prepared,
                        merged_detections(
                            passes,
                            size=prepared.size,
                            rules=model.detection,
                            thresholds=thresholds,
                            input_size=prepared.input_size,
                            with_label_scores=request.label_scores,
                        ),
                    )
                    for prepared, passes in outputs
                ]

            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                found = await (self.in_pool(find) if len(prompts) > 1 else self.in_short(find))
            labels = [label for prompt in prompts for label in prompt.labels]
            answer = DetectAnswer(
                model=responses.model_id(model.bundle.manifest),
                passes=len(prompts),
                results=[
                    responses.image_detections(detections, labels, size=image.size, box_format=request.box_format)
                    for image, detections in found
                ],
                timings_ms=context.timer.timings_ms(),
            )
            return answer, found

    async def _run_detector(
        self,
        model: LoadedModel,
        request: DetectRequest,
        context: RequestContext,
        thresholds: Thresholds,
    ) -> tuple[tuple[Prompt, ...], list[tuple[PreparedImage, tuple[PassOutput, ...]]]]:
        """The prompt of each pass, and each image with the outputs of its passes."""
        names = image_names(len(request.pictures))
        with model.batcher.reserve(len(names), client=context.client, priority=context.priority) as places:
            prompts = await self._prompts(model, request, context)
            _check_label_scores(request, prompts, thresholds)
            for prompt in prompts:
                model.metrics.prompt_tokens.observe(len(prompt))
            features = asyncio.ensure_future(self._prompt_features(model, prompts, context))
            features.add_done_callback(lambda task: task.cancelled() or task.exception())  # an image may fail first
            # Label scores of one pass may be those of a weak query of another.
            least = None if request.label_scores else thresholds.box_threshold

            async def one(data: bytes, name: str) -> tuple[PreparedImage, tuple[PassOutput, ...]]:
                prepared = await self._prepare(model, data, name, context)
                item = ModelInput(prepared.pixels, prompts, tuple(await features), least, context.timer.trace)
                output = await self._run(model, places, item, context)
                assert isinstance(output, tuple), "a detector returns its passes"
                return prepared, output

            try:
                outputs = await _gather([one(data, name) for data, name in zip(request.pictures, names, strict=True)])
            finally:
                features.cancel()
        return prompts, outputs

    async def _prompts(self, model: LoadedModel, request: DetectRequest, context: RequestContext) -> tuple[Prompt, ...]:
        """The prompt of each pass; PromptTooLong for more than `max_passes`."""
        phrases = label_phrases(request.labels) if request.prompt is None else caption_phrases(request.prompt)
        tokenized = await model.tokenize_phrases(phrases, context)
        split = partial(model.bundle.prompts.passes, tokenized, max_passes=self.settings.max_passes)
        return await model.in_text_turn(split, context)

    async def _embed(
        self, model: LoadedModel, pictures: Sequence[bytes], texts: Sequence[str], context: RequestContext
    ) -> tuple[Float32, Float32]:
        """Unit-length embeddings of images [I, D] and texts [T, D]."""
        with model.batcher.reserve(len(pictures), client=context.client, priority=context.priority) as places:

            async def image(data: bytes, name: str) -> Float32:
                prepared = await self._prepare(model, data, name, context)
                embed = await self._run(model, places, ModelInput(prepared.pixels, trace=context.timer.trace), context)
                assert not isinstance(embed, tuple), "an image encoder returns an embedding"
                return embed

            async def text() -> Float32:
                with context.timer.timed("text_encode"):
                    return np.stack(await self._text_embeds(model, texts, context))

            names = image_names(len(pictures))
            *images, text_embeds = await _gather(
                [*(image(data, name) for data, name in zip(pictures, names, strict=True)), text()]
            )
        return np.stack(images), text_embeds

    def _work(self, data: bytes, name: str) -> Work:
        return Work(data, name, self.settings.max_image_pixels, self.settings.image_formats)

    async def _prepare(self, model: LoadedModel, data: bytes, name: str, context: RequestContext) -> PreparedImage:
        rules = model.bundle.manifest.preprocessing.model_dump()
        prepared = await self.decoders.run(self._work(data, name)._replace(rules=rules), context)
        assert isinstance(prepared, PreparedImage), "rules were given"
        timer = context.timer
        timer.observe("decode", prepared.started, prepared.decoded, self.metrics.decode_duration)
        timer.observe("preprocess", prepared.decoded, prepared.ended, model.metrics.preprocess_duration)
        self.metrics.image_pixels.observe(prepared.size[0] * prepared.size[1])
        return prepared

    async def _run(
        self,
        model: LoadedModel,
        places: "Reservation[ModelInput, ModelOutput]",
        item: ModelInput,
        context: RequestContext,
    ) -> ModelOutput:
        """The output for one image; the batcher observes its metrics, since a run belongs to several requests."""
        future = places.submit(item)
        context.timer.queued(future)
        result = await asyncio.wrap_future(future)
        context.timer.observe("queue", result.queued, result.started)
        attributes = model.run_attributes(result.run)
        context.timer.observe("infer", result.started, result.ended, attributes=attributes, link=result.run.link)
        return result.value

    async def _prompt_features(
        self, model: LoadedModel, prompts: Sequence[Prompt], context: RequestContext
    ) -> list[Float32]:
        def encode(missing: Sequence[int]) -> Awaitable[list[Float32]]:
            return model.encode_prompts([prompts[index] for index in missing], context)

        with context.timer.timed("text_encode"):
            return await self._cache.get(model, [prompt.key for prompt in prompts], encode)

    async def _text_embeds(self, model: LoadedModel, texts: Sequence[str], context: RequestContext) -> list[Float32]:
        def encode(missing: Sequence[int]) -> Awaitable[list[Float32]]:
            return model.encode_texts([texts[index] for index in missing], context)

        # A text that is too long fails here, before other requests could wait for the run that it fails.
        await model.check_texts([text for text in dict.fromkeys(texts) if not self._cache.holds(model, text)], context)
        return await self._cache.get(model, texts, encode)

    def _choose(self, name: str | None, task: Task, context: RequestContext) -> LoadedModel:
        model = self._models.choose(name, task)
        context.model = model.name
        return model

    def _check_counts(self, pictures: Sequence[bytes], field: str, texts: int, *, counted: str = "") -> None:
        check_image_count(len(pictures), self.settings)
        if texts > self.settings.max_labels:
            reason = f"{texts} {counted or field}, at most {self.settings.max_labels} are accepted"
            raise InvalidRequest([FieldFault(field, reason)])

    @contextmanager
    def _timed(self, context: RequestContext, model: LoadedModel) -> Iterator[None]:
        """Time a request and keep its model. Nothing may be awaited between the choice of the model and this."""
        try:
            with model.in_use(), context.timer.total():
                yield
        except asyncio.CancelledError:
            self.metrics.cancelled.labels(context.timer.current_stage).inc()
            raise


def check_image_count(count: int, settings: Settings) -> None:
    """InvalidRequest for more images than a request may have."""
    if count > settings.max_images:
        raise InvalidRequest([FieldFault("images", f"{count} images, at most {settings.max_images} are accepted")])


def image_names(count: int) -> list[str]:
    """Names of a request's images in errors."""
    return ["the image"] if count == 1 else [f"image {number} of {count}" for number in range(1, count + 1)]


def _fill(templates: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Every label in every template; InvalidRequest for a text of more than MAX_TEXT characters."""
    longest = max(map(len, labels), default=0)
    if max(len(template) + template.count("{}") * (longest - 2) for template in templates) > MAX_TEXT:
        reason = f"with the longest label in place of each {{}}, a text has more than {MAX_TEXT} characters"
        raise InvalidRequest([FieldFault("templates", reason)])
    return [template.replace("{}", label) for label in labels for template in templates]


def _thresholds(request: DetectRequest, model: LoadedModel) -> Thresholds:
    """The request's thresholds, where it sets none the model's own."""
    given = {field.name: getattr(request, field.name) for field in fields(Thresholds)}
    return replace(Thresholds.of(model.detection), **{name: v for name, v in given.items() if v is not None})


def _check_label_scores(request: DetectRequest, prompts: Sequence[Prompt], thresholds: Thresholds) -> None:
    """InvalidRequest where the scores of all labels for all detections could exceed MAX_LABEL_SCORES."""
    images, detections = len(request.pictures), thresholds.max_detections
    labels = sum(len(prompt.labels) for prompt in prompts)
    if request.label_scores and images * detections * labels > MAX_LABEL_SCORES:
        reason = (
            f"{images} image(s) with {detections} detections (max_detections) and {labels} labels could have"
            f" {images * detections * labels} scores, at most {MAX_LABEL_SCORES} are answered"
        )
        raise InvalidRequest([FieldFault("label_scores", reason)])


def _ensembles(embeds: Float32, count: int) -> Float32:
    """Unit-length means [labels, D] of each label's `count` template embeddings [labels * count, D]."""
    means = embeds.reshape(-1, count, embeds.shape[1]).mean(1)  # [labels, D]
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


async def _gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
