"""A bundle being served, with the worker that runs it in batches, and the choice among several of them."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from server.bundle import TEXT_BATCH, Bundle
from server.contract.manifest import ClassificationRules, DetectionRules, Task
from server.contract.postprocess import PassOutput
from server.contract.text import Phrase, Prompt, TokenizedPhrase, shown
from server.contract.vocabulary import Reading
from server.errors import InferenceFailed, MemoryExhausted, NotReady, UnknownModel, UnsuitableModel, WorkerStopped
from server.inference.batching import Batcher, BatchLimits, BatchRun
from server.inference.fair_queue import FairSemaphore
from server.inference.progress import RunProgress
from server.inference.responses import MAX_WARNINGS
from server.memory.cuda import DeviceLost
from server.memory.memory_budget import HostFootprint
from server.memory.pool import PoolExhausted
from server.request_context import RequestContext
from server.schemas import FieldProblem
from server.telemetry.metrics import ModelMetrics
from server.telemetry.tracing import Attribute, Link, Trace, Tracing

log = logging.getLogger(__name__)

T = TypeVar("T")
Text = TypeVar("Text")
Float32 = npt.NDArray[np.float32]
Arrays = TypeVar("Arrays", bound=tuple[Float32, ...])
# Characters tokenized before others take their turn: at a few microseconds each, a few hundredths of a second.
TURN_CHARACTERS = 8192


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One image for a model run: pixels [3, h, w], and for a detector each pass's prompt with text features [T, C].

    Several passes return only queries that score above `box_threshold`, all of them where it is None.
    """

    pixels: Float32
    prompts: tuple[Prompt, ...] = ()
    text_features: tuple[Float32, ...] = ()
    box_threshold: float | None = None
    trace: Trace = field(default_factory=Trace)  # the trace of its request


# Outputs of each pass of a detector, or the embedding [D] of an image encoder.
ModelOutput = tuple[PassOutput, ...] | Float32
RunBatch = Callable[[Sequence[ModelInput]], list[ModelOutput]]
Bucket = Callable[[ModelInput], tuple[int, ...]]


class LoadedModel:
    """A bundle with a batching worker for images and a thread for texts, which clients use in turn."""

    def __init__(
        self, bundle: Bundle, footprint: HostFootprint, *, limits: BatchLimits, metrics: ModelMetrics, tracing: Tracing
    ) -> None:
        self.bundle, self.footprint, self.metrics = bundle, footprint, metrics
        self.name, self.family = bundle.manifest.name, bundle.manifest.family
        self.retired = False  # True once requests can no longer choose it
        self._users, self._unused = 0, asyncio.Event()
        run, bucket = (
            detector_run(bundle, step=lambda: self.batcher.progress.step())
            if "detect" in bundle.tasks
            else encoder_run(bundle)
        )

        def trace(items: Sequence[ModelInput], run: BatchRun, started: float, ended: float) -> Link:
            return tracing.execution([item.trace for item in items], started, ended, self.run_attributes(run))

        self.batcher = Batcher(self.name, run, bucket=bucket, limits=limits, metrics=metrics, trace=trace)
        self.text_thread = ThreadPoolExecutor(1, thread_name_prefix=f"texts-{self.name}")
        self._text_progress = RunProgress()
        self._text_slots = FairSemaphore(2)  # one runs, the next is queued for when the thread is free

    @property
    def alive(self) -> bool:
        """True where it can answer, now or later."""
        return self.batcher.alive and not (self.bundle.gpu and self.bundle.gpu.lost)

    @property
    def hangs(self) -> bool:
        """True where a run has made no progress for so long that it never will."""
        return self.batcher.progress.hangs() or self._text_progress.hangs()

    @property
    def detection(self) -> DetectionRules:
        """Rules of a detector."""
        rules = self.bundle.manifest.detection
        assert rules is not None, "the manifest of every detector has rules"
        return rules

    @property
    def classification(self) -> ClassificationRules:
        """Rules of an image-text encoder."""
        rules = self.bundle.manifest.classification
        assert rules is not None, "the manifest of every encoder has rules"
        return rules

    def run_attributes(self, run: BatchRun) -> dict[str, Attribute]:
        """Span attributes of a model run."""
        return {"openset.model": self.name, "openset.batch_size": run.size, "openset.bucket": run.shape}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model for the block. Used from the event loop's thread only, hence no lock."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        """Wait until no request uses a model that none can choose any more."""
        while self._users:
            self._unused.clear()
            await self._unused.wait()

    async def encode_prompts(self, prompts: Sequence[Prompt], context: RequestContext) -> list[Float32]:
        """Text features [T, C] of each prompt, encoded one at a time: others take turns, and memory stays flat."""
        features: list[Float32] = []
        for prompt in prompts:
            features += await self._encode(context, partial(self.bundle.encode_prompts, [prompt]))
        return features

    async def encode_texts(self, texts: Sequence[str], context: RequestContext) -> list[Float32]:
        """Unit-length embeddings [D] of each text, encoded some at a time."""

        def encode(part: Sequence[str]) -> list[Float32]:
            return [row.copy() for row in encode_in_halves(self.bundle.embed_texts, part)]

        return [row for part in text_parts(texts) for row in await self._encode(context, partial(encode, part))]

    async def tokenize_phrases(self, phrases: Sequence[Phrase], context: RequestContext) -> list[TokenizedPhrase]:
        """Tokens of each phrase of a detector's prompt, some at a time; PromptTooLong."""
        tokenize = self.bundle.prompts.tokenize
        tokenized: list[TokenizedPhrase] = []
        for part in text_parts(phrases, text_of=lambda phrase: phrase.text):
            tokenized += await self.in_text_turn(partial(tokenize, part), context)
        return tokenized

    async def check_texts(self, texts: Sequence[str], context: RequestContext) -> None:
        """Tokenize texts for the sentence encoder, some at a time; PromptTooLong names one that is too long."""
        for part in text_parts(texts):
            await self.in_text_turn(partial(self.bundle.sentences.encode, part), context)

    async def text_warnings(
        self, field: str, texts: Sequence[str], context: RequestContext
    ) -> list[FieldProblem] | None:
        """Words of some texts that the sentence encoder's vocabulary does not know; None where it knows all."""
        doubtful = {index: text for index, text in enumerate(texts) if not text.isascii()}
        readings: list[Reading] = []
        for part in text_parts(list(doubtful.values())):
            readings += await self.in_text_turn(partial(self.bundle.sentences.readings, part), context)
        return [
            FieldProblem(field=f"{field}.{index}", reason=f"{shown(text)}: {reading}")
            for (index, text), reading in zip(doubtful.items(), readings, strict=True)
            if not reading.complete
        ][:MAX_WARNINGS] or None

    async def in_text_turn(self, function: Callable[[], T], context: RequestContext) -> T:
        """Run `function`, a short one that tokenizes or encodes, in the text thread when the client's turn comes."""

        def watched() -> T:
            with self._text_progress.working():
                return function()

        async with self._text_slots.slot(client=context.client, priority=context.priority):
            return await asyncio.wrap_future(self.text_thread.submit(watched))

    async def _encode(self, context: RequestContext, encode: Callable[[], list[Float32]]) -> list[Float32]:
        def timed() -> list[Float32]:
            with self.metrics.text_encode_duration.time(), raise_as_fault(self.name, lambda: self.batcher.retry_after):
                return encode()

        return await self.in_text_turn(timed, context)

    def close(self, *, until: float) -> bool:
        """Finish what was accepted and end the threads; returns whether that was done by `until` (`time.monotonic`)."""
        self.batcher.close(max(0.0, until - time.monotonic()))
        ending = Thread(target=lambda: self.text_thread.shutdown(cancel_futures=True), daemon=True)
        ending.start()
        ending.join(max(0.0, until - time.monotonic()))
        return self.batcher.finished and not ending.is_alive()


class LoadedModels:
    """The models being served, in order; each request chooses one of them."""

    def __init__(self) -> None:
        self.models: tuple[LoadedModel, ...] = ()
        self.ready = False

    def choose(self, name: str | None, task: Task) -> LoadedModel:
        """The model called `name`, or the only one of that family; without a name the first that can do `task`."""
        if not self.ready:
            raise NotReady("bundles are being loaded")
        able = [model for model in self.models if task in model.bundle.tasks]
        listed = ", ".join(model.name for model in able) or "none"
        if name is None:
            if not able:
                raise UnknownModel(f"no bundle that can {task} is loaded")
            return able[0]
        named = [model for model in self.models if model.name == name]
        named = named or [model for model in self.models if model.family == name]
        if not named:
            raise UnknownModel(f"there is no model {shown(name)}; those that can {task}: {listed}")
        suitable = [model for model in named if model in able]
        if not suitable:
            raise UnsuitableModel(f"model {shown(name)} cannot {task}; those that can: {listed}")
        if len(suitable) > 1:
            several = ", ".join(model.name for model in suitable)
            raise UnsuitableModel(f"model {shown(name)} is a family of several: name one of {several}")
        return suitable[0]

    def retry_after(self) -> int:
        """Whole seconds until what waits now, for any model, has run."""
        return max((model.batcher.retry_after for model in self.models), default=1)

    def dead(self) -> list[str]:
        """Names of the models whose worker has died or hangs, or whose GPU is lost."""
        return [model.name for model in self.models if not model.alive or model.hangs]


def detector_run(bundle: Bundle, *, step: Callable[[], None] = lambda: None) -> tuple[RunBatch, Bucket]:
    """The batched run of a detector, and the bucket within which images share one.

    They have as many passes, and prompts of one token bucket in each, so that none waits for another's. Passes run one
    after the other: memory does not grow with their number. `step` is called after each.
    """

    def run(batch: Sequence[ModelInput]) -> list[ModelOutput]:
        outputs: list[list[PassOutput]] = [[] for _ in batch]
        with bundle.encoded([item.pixels for item in batch]) as encoded:
            for index in range(len(batch[0].prompts)):
                prompts = [item.prompts[index] for item in batch]
                step()
                results = bundle.detect(encoded, prompts, [item.text_features[index] for item in batch])
                for item, prompt, result, passes in zip(batch, prompts, results, outputs, strict=True):
                    passes.append(_pass_output(bundle, item, prompt, _require_finite(bundle, result)))
        return [tuple(passes) for passes in outputs]

    def bucket(item: ModelInput) -> tuple[int, ...]:
        return (*bundle.canvas(item.pixels), *(bundle.token_bucket([prompt]) for prompt in item.prompts))

    return run, bucket


def encoder_run(bundle: Bundle) -> tuple[RunBatch, Bucket]:
    """The batched run of an image encoder, and the bucket within which images share one: their shape."""

    def run(batch: Sequence[ModelInput]) -> list[ModelOutput]:
        embeds = bundle.embed_images([item.pixels for item in batch])
        return [_require_finite(bundle, (row.copy(),))[0] for row in embeds]

    return run, lambda item: item.pixels.shape


def text_parts(texts: Sequence[Text], *, text_of: Callable[[Text], str] = str) -> Iterator[Sequence[Text]]:
    """Texts in parts of one turn each: at most TEXT_BATCH of them, and TURN_CHARACTERS in all or one text."""
    start, characters = 0, 0
    for index, text in enumerate(texts):
        length = len(text_of(text))
        if index > start and (index - start >= TEXT_BATCH or characters + length > TURN_CHARACTERS):
            yield texts[start:index]
            start, characters = index, 0
        characters += length
    if start < len(texts):
        yield texts[start:]


def encode_in_halves(run: Callable[[Sequence[str]], Float32], texts: Sequence[str]) -> list[Float32]:
    """Encode `texts` in order; without room for all, in halves, and PoolExhausted without room for one."""
    try:
        return list(run(texts))
    except PoolExhausted:
        if len(texts) < 2:
            raise
    half = len(texts) // 2
    return encode_in_halves(run, texts[:half]) + encode_in_halves(run, texts[half:])


@contextmanager
def raise_as_fault(name: str, retry_after: Callable[[], int]) -> Iterator[None]:
    """Translate failures of the model `name`: PoolExhausted to MemoryExhausted, DeviceLost to WorkerStopped."""
    try:
        yield
    except PoolExhausted as error:
        log.warning("a text has no room on %s: %s", name, error)
        fault = f"memory for encoding a text with {name} is all in use"
        raise MemoryExhausted(fault, retry_after=retry_after()) from error
    except DeviceLost as error:
        raise WorkerStopped(f"the GPU that {name} runs on is lost") from error


def _pass_output(bundle: Bundle, item: ModelInput, prompt: Prompt, result: tuple[Float32, Float32]) -> PassOutput:
    rules = bundle.manifest.detection
    assert rules is not None, "the manifest of every detector has rules"
    output = PassOutput(prompt, *result)
    if len(item.prompts) == 1 or item.box_threshold is None:
        return output
    return output.above(item.box_threshold, rules)


def _require_finite(bundle: Bundle, output: Arrays) -> Arrays:
    if not all(np.isfinite(array).all() for array in output):
        raise InferenceFailed(f"{bundle.manifest.name} gave numbers that are not finite")
    return output
