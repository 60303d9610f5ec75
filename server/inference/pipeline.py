"""Inference pipeline: decode in threads, encode texts through the cache, run in batches, build the response."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from server.contract.manifest import Task
from server.contract.postprocess import Detection, PassOutput, Thresholds, class_scores, merged_detections
from server.contract.text import Prompt, TokenizedPhrase, caption_phrases, label_phrases
from server.errors import Fault, FieldFault, InvalidRequest
from server.inference import responses
from server.inference.batching import Reservation
from server.inference.decoders import Decoders, ThreadDecoders
from server.inference.drawing import Mark
from server.inference.fair_queue import FairSemaphore
from server.inference.images import PreparedImage, Work
from server.inference.loaded_model import LoadedModel, LoadedModels, ModelInput, ModelOutput
from server.inference.prompt_cache import PromptCache
from server.inference.request_images import (
    aligned,
    check_image_count,
    each_image,
    gather,
    image_problems,
    succeeded,
)
from server.inference.request_options import check_label_scores, check_size, ensembles, fill_templates, thresholds_of
from server.request_context import RequestContext
from server.requests import ClassifyRequest, DetectRequest, EmbedRequest, SimilarityRequest
from server.schemas import ClassifyAnswer, DetectAnswer, EmbedAnswer, Embeddings, ImageScores, SimilarityAnswer
from server.settings import Settings
from server.telemetry.metrics import Metrics

Float32 = npt.NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _DetectorRun:
    """Labels with their tokens, their thresholds, the prompt of each pass; each image with its passes, or its fault."""

    phrases: Sequence[TokenizedPhrase]
    thresholds: Thresholds
    prompts: tuple[Prompt, ...]
    outputs: Sequence[tuple[PreparedImage, tuple[PassOutput, ...]] | Fault]


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

    def choose(self, name: str | None, task: Task, context: RequestContext) -> LoadedModel:
        """The model of this name for a task, which the context notes; UnknownModel or UnsuitableModel without one."""
        model = self._models.choose(name, task)
        context.model = model.name
        return model

    async def detect(self, request: DetectRequest, context: RequestContext) -> DetectAnswer:
        """Find the request's labels or phrases in each of its images."""
        answer, _ = await self._detect(request, context)
        return answer

    async def detect_drawn(self, request: DetectRequest, context: RequestContext) -> tuple[DetectAnswer, bytes]:
        """As `detect` for one image; also that image, upright, as PNG with the detections drawn on it."""
        if len(request.pictures) != 1:
            raise InvalidRequest([FieldFault("images", f"{len(request.pictures)} images, drawing takes exactly one")])
        answer, (found,) = await self._detect(request, context)
        if isinstance(found, Fault):  # there is nothing to draw on
            raise found
        picture = request.pictures[0]
        assert isinstance(picture, bytes), "one that could not be got is a fault"
        marks = [Mark(found.box, found.label, found.label_id, found.score) for found in found[1]]
        # Decoded again: kept until its turn comes, the image would take twenty times the memory of its file.
        drawn = await self.decoders.run(self._work(picture, "the image")._replace(marks=marks), context)
        assert isinstance(drawn, bytes), "a drawing is a PNG"
        return answer, drawn

    async def classify(self, request: ClassifyRequest, context: RequestContext) -> ClassifyAnswer:
        """Score the labels for each image."""
        model = self.choose(request.model, "classify", context)
        rules = model.classification
        templates = request.templates or rules.templates
        count = len(request.labels) * len(templates)
        self._check_counts(request.pictures, "labels", count, counted="labels (times templates)")
        texts = fill_templates(templates, request.labels)
        with self._timed(context, model):
            images, embeds = await self._embed(model, request, texts, context)
            warnings = await model.text_warnings("labels", request.labels, context)

            def score() -> list[ImageScores]:
                scores = class_scores(
                    _stacked(images, embeds.shape[1]) @ ensembles(embeds, len(templates)).T,
                    logit_scale=rules.logit_scale,
                    logit_bias=rules.logit_bias,
                    multi_label=request.multi_label,
                )
                rows = (responses.image_scores(row, request.labels, top_k=request.top_k) for row in scores)
                return aligned(images, rows, lambda: ImageScores(scores=[]))

            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                results = await self.in_short(score)
            return ClassifyAnswer(
                model=responses.model_id(model.bundle.manifest),
                results=results,
                problems=image_problems(images),
                warnings=warnings,
                timings_ms=context.timer.timings_ms(),
            )

    async def similarity(self, request: SimilarityRequest, context: RequestContext) -> SimilarityAnswer:
        """The cosine of each image with each text."""
        model = self.choose(request.model, "similarity", context)
        self._check_counts(request.pictures, "texts", len(request.texts))
        with self._timed(context, model):
            images, texts = await self._embed(model, request, request.texts, context)
            warnings = await model.text_warnings("texts", request.texts, context)

            def compare() -> tuple[list[list[float]], Embeddings | None]:
                embeds = _stacked(images, texts.shape[1])
                cosines = aligned(images, responses.rounded_rows(embeds @ texts.T, responses.SCORE_DIGITS), list)
                if not request.embeddings:
                    return cosines, None
                return cosines, Embeddings(images=_vectors(images), texts=_vectors(texts))

            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                cosines, embeddings = await self.in_short(compare)
            return SimilarityAnswer(
                model=responses.model_id(model.bundle.manifest),
                similarity=cosines,
                logit_scale=model.classification.logit_scale,
                embeddings=embeddings,
                problems=image_problems(images),
                warnings=warnings,
                timings_ms=context.timer.timings_ms(),
            )

    async def embed(self, request: EmbedRequest, context: RequestContext) -> EmbedAnswer:
        """Unit-length embeddings of the images and of the texts."""
        model = self.choose(request.model, "similarity", context)
        self._check_counts(request.pictures, "texts", len(request.texts))
        with self._timed(context, model):
            images, texts = await self._embed(model, request, request.texts, context)
            warnings = await model.text_warnings("texts", request.texts, context)
            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                vectors = await self.in_short(lambda: (_vectors(images), _vectors(texts)))
            return EmbedAnswer(
                model=responses.model_id(model.bundle.manifest),
                images=vectors[0],
                texts=vectors[1],
                problems=image_problems(images),
                warnings=warnings,
                timings_ms=context.timer.timings_ms(),
            )

    async def _detect(
        self, request: DetectRequest, context: RequestContext
    ) -> tuple[DetectAnswer, list[tuple[PreparedImage, list[Detection]] | Fault]]:
        model = self.choose(request.model, "detect", context)
        self._check_counts(request.pictures, "labels", len(request.labels))
        check_size(request, model)
        with self._timed(context, model):
            run = await self._run_detector(model, request, context)
            prompts, outputs = run.prompts, run.outputs

            def find() -> list[tuple[PreparedImage, list[Detection]] | Fault]:
                return [
                    output if isinstance(output, Fault) else (output[0], detections_of(*output)) for output in outputs
                ]

            def detections_of(prepared: PreparedImage, passes: tuple[PassOutput, ...]) -> list[Detection]:
                return merged_detections(
                    passes,
                    size=prepared.size,
                    rules=model.detection,
                    thresholds=run.thresholds,
                    input_size=prepared.input_size,
                    with_label_scores=request.label_scores,
                )

            with context.timer.timed("postprocess", model.metrics.postprocess_duration):
                found = await (self.in_pool(find) if len(prompts) > 1 else self.in_short(find))
            labels = [label for prompt in prompts for label in prompt.labels]
            answer = DetectAnswer(
                model=responses.model_id(model.bundle.manifest),
                passes=len(prompts),
                results=[
                    responses.image_detections(each[1], labels, size=each[0].size, box_format=request.box_format)
                    if not isinstance(each, Fault)
                    else responses.image_detections([], labels, size=(0, 0), box_format=request.box_format)
                    for each in found
                ],
                problems=image_problems(outputs),
                warnings=responses.label_warnings(request, run.phrases),
                timings_ms=context.timer.timings_ms(),
            )
            return answer, found

    async def _run_detector(
        self,
        model: LoadedModel,
        request: DetectRequest,
        context: RequestContext,
    ) -> "_DetectorRun":
        """Tokenize the labels and run their passes on each image."""
        count = len(request.pictures)
        with model.batcher.reserve(count, client=context.client, priority=context.priority) as places:
            phrases = await self._tokenized(model, request, context)
            thresholds = thresholds_of(request, model, phrases)
            split = partial(model.bundle.prompts.passes, phrases, max_passes=self.settings.max_passes)
            prompts = await model.in_text_turn(split, context)
            check_label_scores(request, prompts, thresholds)
            for prompt in prompts:
                model.metrics.prompt_tokens.observe(len(prompt))
            features = asyncio.ensure_future(self._prompt_features(model, prompts, context))
            features.add_done_callback(lambda task: task.cancelled() or task.exception())  # an image may fail first
            # Label scores of one pass may be those of a weak query of another.
            least = None if request.label_scores else thresholds.least

            async def one(data: bytes, name: str) -> tuple[PreparedImage, tuple[PassOutput, ...]]:
                prepared = await self._prepare(model, data, name, context, request.shorter, request.longer)
                item = ModelInput(prepared.pixels, prompts, tuple(await features), least, context.timer.trace)
                output = await self._run(model, places, item, context)
                assert isinstance(output, tuple), "a detector returns its passes"
                return prepared, output

            try:
                skip = request.on_error == "skip"
                outputs = await gather(each_image(request.pictures, one, context, skip=skip))
            finally:
                features.cancel()
        return _DetectorRun(phrases, thresholds, prompts, outputs)

    async def _tokenized(
        self, model: LoadedModel, request: DetectRequest, context: RequestContext
    ) -> list[TokenizedPhrase]:
        """The labels, or the caption's phrases, with their tokens."""
        phrases = label_phrases(request.labels) if request.prompt is None else caption_phrases(request.prompt)
        return await model.tokenize_phrases(phrases, context)

    async def _embed(
        self,
        model: LoadedModel,
        request: ClassifyRequest | SimilarityRequest | EmbedRequest,
        texts: Sequence[str],
        context: RequestContext,
    ) -> tuple[list[Float32 | Fault], Float32]:
        """Unit-length embedding [D] of each image, or its fault, and of texts [T, D]."""
        pictures = request.pictures
        places_for = model.batcher.reserve(len(pictures), client=context.client, priority=context.priority)
        with places_for if pictures else nullcontext() as places:

            async def image(data: bytes, name: str) -> Float32:
                prepared = await self._prepare(model, data, name, context)
                assert places is not None, "there are pictures"
                embed = await self._run(model, places, ModelInput(prepared.pixels, trace=context.timer.trace), context)
                assert not isinstance(embed, tuple), "an image encoder returns an embedding"
                return embed

            async def text() -> Float32:
                if not texts:
                    return np.empty((0, 0), np.float32)
                with context.timer.timed("text_encode"):
                    return np.stack(await self._text_embeds(model, texts, context))

            images = each_image(pictures, image, context, skip=request.on_error == "skip")
            *outcomes, text_embeds = await gather([*images, text()])
        assert not isinstance(text_embeds, Fault), "texts have no image's fault"
        return outcomes, text_embeds

    def _work(self, data: bytes, name: str) -> Work:
        return Work(data, name, self.settings.max_image_pixels, self.settings.image_formats)

    async def _prepare(
        self,
        model: LoadedModel,
        data: bytes,
        name: str,
        context: RequestContext,
        shorter: int | None = None,
        longer: int | None = None,
    ) -> PreparedImage:
        rules = model.bundle.manifest.preprocessing.reduced(shorter, longer)
        prepared = await self.decoders.run(self._work(data, name)._replace(rules=rules.model_dump()), context)
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
        run = result.run
        attributes, description = model.run_attributes(run), f"{run.size} of {run.shape}"
        observe = partial(context.timer.observe, attributes=attributes, link=run.link, description=description)
        observe("infer", result.started, result.ended)
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

    def _check_counts(self, pictures: Sequence[bytes | Fault], field: str, texts: int, *, counted: str = "") -> None:
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


def _stacked(outcomes: Sequence[Float32 | Fault], width: int) -> Float32:
    """Embeddings [I, D] of the images that have one."""
    rows = succeeded(outcomes)
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


def _vectors(outcomes: Sequence[Float32 | Fault] | Float32) -> list[list[float]]:
    """Rounded embeddings as lists, empty for a fault."""
    return [[] if isinstance(row, Fault) else responses.rounded(row, responses.EMBEDDING_DIGITS) for row in outcomes]
