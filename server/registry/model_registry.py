"""The bundles being served: opened, checked, each with its worker, and found by name, family and task."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from server.bundle import Bundle
from server.contract.manifest import BundleError, Task, read_manifest
from server.contract.postprocess import PassOutput
from server.contract.text import Prompt, shown
from server.errors import InferenceFailed, NotReady, UnknownModel, UnsuitableModel
from server.inference.batching import Batcher, BatchLimits, Run
from server.inference.fair_queue import FairSemaphore
from server.memory.allocators import HostAllocator
from server.memory.memory_budget import HostBudget, HostFootprint
from server.memory.pool import PAGE_BYTES, BufferPool
from server.registry.footprints import host_budget, plan_bundle, plan_folder, with_peaks, with_second_image
from server.registry.refcount import RefCount
from server.registry.warmup import Peaks, largest_batches, warm_up, warm_up_shapes
from server.runtimes.device import Device
from server.settings import Settings
from server.telemetry.metrics import Metrics, ModelMetrics
from server.telemetry.tracing import Attribute, Link, Trace, Tracing

log = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
BUNDLED = Path(__file__).parents[1] / "bundles"
# In the order in which they are served: the first that can do a task is its default.
SHIPPED = ("clip-mini", "grounding-dino-mini", "glip-mini")


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One image for a model run: pixels [3, h, w], and for a detector each pass's prompt with text features [T, C].

    Of several passes only queries that score above `box_threshold` are given back, all of them where it is None.
    """

    pixels: Float32
    prompts: tuple[Prompt, ...] = ()
    text_features: tuple[Float32, ...] = ()
    box_threshold: float | None = None
    trace: Trace = field(default_factory=Trace)  # of its request


# Of a detector: what each pass gave; of an image encoder: one embedding [D].
ModelOutput = tuple[PassOutput, ...] | Float32


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A bundle with what runs it: a batching worker for images, a thread for texts, which clients use in turn."""

    bundle: Bundle
    batcher: Batcher[ModelInput, ModelOutput]
    texts: ThreadPoolExecutor
    metrics: ModelMetrics
    footprint: HostFootprint
    text_slots: FairSemaphore = field(
        default_factory=lambda: FairSemaphore(2)
    )  # the next is there when the thread gets free
    refcount: RefCount = field(default_factory=RefCount)

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def family(self) -> str:
        return self.bundle.manifest.family

    @property
    def retired(self) -> bool:
        """Whether no request can choose it any more."""
        return self.refcount.retired

    def close(self, *, until: float) -> bool:
        """Finish what was accepted, and end the threads; whether that was done by then (`time.monotonic`)."""
        self.batcher.close(max(0.0, until - time.monotonic()))
        ending = Thread(target=lambda: self.texts.shutdown(cancel_futures=True), daemon=True)
        ending.start()
        ending.join(max(0.0, until - time.monotonic()))
        return self.batcher.ended and not ending.is_alive()

    @property
    def alive(self) -> bool:
        """Whether it can answer, now or later."""
        return self.batcher.alive and not (self.bundle.gpu and self.bundle.gpu.lost)


class ModelRegistry:
    """The bundles being served, in the order they were given."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._settings, self._metrics, self._tracing = settings, metrics, tracing or Tracing()
        self._served: tuple[LoadedModel, ...] = ()
        self.budget = host_budget(settings)
        self.pool: BufferPool | None = None  # the bundles', once they are known: its size follows from theirs
        self.ready = self._closed = False
        self.failure: Exception | None = None
        metrics.ready.set(0)

    @property
    def served(self) -> tuple[LoadedModel, ...]:
        return self._served

    def load(self, bundles: Iterable[Bundle]) -> None:
        """Check, warm and serve `bundles`; ready when all are. On a fault nothing is served and `failure` has it."""
        try:
            checked = list(bundles)
            _refuse_twins([bundle.manifest.name for bundle in checked])
            planned = [plan_bundle(bundle, self._settings) for bundle in checked]
            budget = self.budget.fit(planned)
            if checked:
                self._share_pool(checked, budget)
            footprints = [self._check(bundle, plan) for bundle, plan in zip(checked, planned, strict=True)]
            self.budget.fit(footprints)
            if self._closed:
                return
            self._serve(*map(self._start, checked, footprints))
        except Exception as error:
            self.failure = error
            raise
        self.ready = True
        self._metrics.ready.set(1)
        log.info("ready: %s", ", ".join(entry.name for entry in self._served) or "no bundle")

    def budget_with(self, footprint: HostFootprint) -> HostBudget:
        """The budget with one more bundle; OverBudget where it does not fit beside those being served."""
        return self.budget.fit([*self._footprints(), footprint])

    def prepare(self, bundle: Bundle, peaks: Peaks | None = None) -> LoadedModel:
        """Check, warm and start one more bundle, which no request can choose yet; OverBudget, BundleError.

        `peaks` tell its memory, where that was measured before. Called from any thread, but once at a time.
        """
        plan = plan_bundle(bundle, self._settings)
        budget = self.budget_with(plan)
        try:
            self._share_pool([bundle], budget)
            footprint = self._check(bundle, plan, peaks)
            self.budget_with(footprint)
        except Exception:
            self._fit_pool(self.budget)
            raise
        return self._start(bundle, footprint)

    def swap(self, old: LoadedModel | None, new: LoadedModel | None) -> None:
        """Let requests choose `new` in the place of `old`; at the end of the order where there is none.

        Called from the event loop's thread, where requests choose, so that none falls between.
        """
        order = [new if entry is old else entry for entry in self._served]
        if old is None:
            order.append(new)
        else:
            old.refcount.retired = True
        self._serve(*(entry for entry in order if entry))

    def release(self, old: LoadedModel) -> None:
        """Give back what a retired bundle held, once nobody holds it."""
        old.close(until=time.monotonic() + self._settings.shutdown_timeout_s)
        parts = {artefact.part for artefact in old.bundle.manifest.artefacts}
        heirs = [entry for entry in self._served if entry.name == old.name]
        if heirs:
            kept = {artefact.part for artefact in heirs[0].bundle.manifest.artefacts}
            self._metrics.forget_parts(old.name, parts - kept)
        else:
            self._metrics.forget(old.name, parts)
        self._fit_pool(self.budget)

    def choose(self, model: str | None, task: Task) -> LoadedModel:
        """The bundle named `model`, or the only one of that family; without a name the first that can do `task`."""
        if not self.ready:
            raise NotReady("bundles are being loaded")
        able = [entry for entry in self._served if task in entry.bundle.tasks]
        names = ", ".join(entry.name for entry in able) or "none"
        if model is None:
            if not able:
                raise UnknownModel(f"no bundle that can {task} is loaded")
            return able[0]
        named = [entry for entry in self._served if entry.name == model]
        named = named or [entry for entry in self._served if entry.family == model]
        if not named:
            raise UnknownModel(f"there is no model {shown(model)}; those that can {task}: {names}")
        fitting = [entry for entry in named if entry in able]
        if not fitting:
            raise UnsuitableModel(f"model {shown(model)} cannot {task}; those that can: {names}")
        if len(fitting) > 1:
            several = ", ".join(entry.name for entry in fitting)
            raise UnsuitableModel(f"model {shown(model)} is a family of several: name one of {several}")
        return fitting[0]

    def retry_after(self) -> int:
        """Whole seconds until what waits now, for whichever model, has run."""
        return max((entry.batcher.retry_after for entry in self._served), default=1)

    def dead(self) -> list[str]:
        """The names of models whose worker has died, or whose GPU is lost."""
        return [entry.name for entry in self._served if not entry.alive]

    def close(self, *, until: float | None = None) -> bool:
        """Finish what was accepted and end the workers; whether that was done by then (`time.monotonic`).

        Without `until` the setting's time begins now.
        """
        if until is None:
            until = time.monotonic() + self._settings.shutdown_timeout_s
        self.ready = False
        self._closed = True
        self._metrics.ready.set(0)
        ended = [entry.close(until=until) for entry in self._served]
        if self.pool:
            self.pool.trim()
        return all(ended)

    def _footprints(self) -> list[HostFootprint]:
        return [entry.footprint for entry in self._served]

    def _serve(self, *entries: LoadedModel) -> None:
        self._served = entries
        self.budget = self.budget.fit(self._footprints())
        for entry in entries:
            for artefact in entry.bundle.manifest.artefacts:
                valid = artefact.part not in entry.bundle.uncertified
                self._metrics.certificate_valid.labels(entry.name, artefact.part).set(valid)

    def _share_pool(self, bundles: Sequence[Bundle], budget: HostBudget) -> None:
        """Let `bundles` borrow from the one pool, of the size that the budget gives it."""
        gpus = {bundle.gpu.name: bundle.gpu for bundle in bundles if bundle.gpu}
        if self.pool is None:
            allocator = next((gpu.pinned for gpu in gpus.values()), HostAllocator())
            self.pool = BufferPool(allocator)
        self._fit_pool(budget)
        for watched in (self.pool, *(own for gpu in gpus.values() for own in (gpu.staging, gpu.buffers))):
            self._metrics.watch(watched)
        for bundle in bundles:
            bundle.pool = self.pool

    def _fit_pool(self, budget: HostBudget) -> None:
        if self.pool is not None:
            self.pool.resize(max(PAGE_BYTES, budget.pool_bytes))

    def _check(self, bundle: Bundle, planned: HostFootprint, peaks: Peaks | None = None) -> HostFootprint:
        """The bundle's footprint, measured if it is warmed, unless `peaks` are known."""
        bundle.check_canary()
        wanted = self._settings.warm_up
        if wanted == "none":
            return planned
        measured = warm_up(bundle)
        footprint = with_peaks(planned, bundle.manifest, peaks or measured)
        if footprint.gpu and bundle.gpu:
            footprint = with_second_image(footprint, bundle.gpu, largest_batches(bundle))
        if wanted == "all" or (wanted == "auto" and bundle.gpu):
            left = warm_up_shapes(bundle, batch=footprint.batch, within_s=self._settings.warm_up_s)
            if left:
                log.warning(
                    "%s: %d shape buckets are not warm, there was no time or room for them", footprint.name, left
                )
        return footprint

    def _start(self, bundle: Bundle, footprint: HostFootprint) -> LoadedModel:
        manifest = bundle.manifest
        execute, bucket = _detector(bundle) if "detect" in bundle.tasks else _encoder(bundle)
        limits = BatchLimits(
            capacity=self._settings.max_queue,
            max_batch=footprint.batch,
            max_wait_s=self._settings.max_wait_ms / 1000,
        )
        metrics = self._metrics.of(manifest.name)

        def trace(items: Sequence[ModelInput], run: Run, started: float, ended: float) -> Link:
            attributes = run_attributes(manifest.name, run)
            return self._tracing.execution([item.trace for item in items], started, ended, attributes)

        return LoadedModel(
            bundle=bundle,
            batcher=Batcher(manifest.name, execute, bucket=bucket, limits=limits, metrics=metrics, trace=trace),
            texts=ThreadPoolExecutor(1, thread_name_prefix=f"texts-{manifest.name}"),
            metrics=metrics,
            footprint=footprint,
        )


def open_bundles(settings: Settings, *, task: Task | None = None) -> list[Bundle]:
    """The bundles that the settings name, else those that ship with the server; with `task`, those that can do it."""
    folders: Sequence[Path] = settings.bundle or [BUNDLED / name for name in SHIPPED if (BUNDLED / name).is_dir()]
    if not folders:
        raise BundleError(f"there is no bundle to serve: {BUNDLED} is empty and no --bundle was given")
    _refuse_over_budget(folders, settings)
    opened = [open_bundle(folder, settings) for folder in folders]
    return [bundle for bundle in opened if task is None or task in bundle.tasks]


def open_bundle(folder: Path, settings: Settings) -> Bundle:
    """The bundle in `folder`, its files and certificates checked; the log says what is not as it should be."""
    bundle = Bundle(
        folder,
        allow_uncertified=settings.allow_uncertified,
        threads=settings.run_threads,
        device=Device(settings.device, settings.gpu_memory_bytes),
    )
    for part, fault in bundle.uncertified.items():
        log.warning("%s: %s is served uncertified: %s", bundle.manifest.name, part, fault)
    if bundle.gpu:
        log.info("%s runs on %s: %s", bundle.manifest.name, bundle.gpu.name, bundle.providers)
    for file, fault in bundle.refused.items():
        log.warning("%s: %s is not used: %s", bundle.manifest.name, file, fault)
    return bundle


def _refuse_twins(names: Sequence[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise BundleError(f"several bundles are named {', '.join(twins)}: a request could not say which it means")


def _refuse_over_budget(folders: Sequence[Path], settings: Settings) -> None:
    """OverBudget before anything is loaded, by what is known then."""
    host_budget(settings).fit([plan_folder(folder, read_manifest(folder), settings) for folder in folders])


def run_attributes(model: str, run: Run) -> dict[str, Attribute]:
    """What a span says of a model run."""
    sizes = run.bucket if isinstance(run.bucket, tuple) else (run.bucket,)
    return {"openset.model": model, "openset.batch_size": run.size, "openset.bucket": "x".join(map(str, sizes))}


Arrays = TypeVar("Arrays", bound=tuple[Float32, ...])
Execute = Callable[[Sequence[ModelInput]], list[ModelOutput]]
Bucket = Callable[[ModelInput], tuple[int, ...]]


def _detector(bundle: Bundle) -> tuple[Execute, Bucket]:
    """Images that share a run have as many passes, and in each of them prompts of one bucket: none waits for another's.

    One pass runs after the other, so that memory does not grow with their number.
    """

    def run(batch: Sequence[ModelInput]) -> list[ModelOutput]:
        found: list[list[PassOutput]] = [[] for _ in batch]
        with bundle.encoded([item.pixels for item in batch]) as encoded:
            for number in range(len(batch[0].prompts)):
                prompts = [item.prompts[number] for item in batch]
                outputs = bundle.detect(encoded, prompts, [item.text_features[number] for item in batch])
                for item, prompt, output, passes in zip(batch, prompts, outputs, found, strict=True):
                    passes.append(_pass_output(bundle, item, prompt, _finite(bundle, output)))
        return [tuple(passes) for passes in found]

    def bucket(item: ModelInput) -> tuple[int, ...]:
        return (*bundle.canvas(item.pixels), *(bundle.token_bucket([prompt]) for prompt in item.prompts))

    return run, bucket


def _pass_output(bundle: Bundle, item: ModelInput, prompt: Prompt, output: tuple[Float32, Float32]) -> PassOutput:
    rules = bundle.manifest.detection
    assert rules is not None, "the manifest gives every detector its rules"
    given = PassOutput(prompt, *output)
    if len(item.prompts) == 1 or item.box_threshold is None:
        return given
    return given.above(item.box_threshold, rules)


def _encoder(bundle: Bundle) -> tuple[Execute, Bucket]:
    def run(batch: Sequence[ModelInput]) -> list[ModelOutput]:
        embeds = bundle.embed_images([item.pixels for item in batch])
        return [_finite(bundle, (row.copy(),))[0] for row in embeds]

    return run, lambda item: item.pixels.shape


def _finite(bundle: Bundle, output: Arrays) -> Arrays:
    if not all(np.isfinite(array).all() for array in output):
        raise InferenceFailed(f"{bundle.manifest.name} gave numbers that are not finite")
    return output
