"""Model registry: bundles opened, checked, warmed, held to the memory budget, and served."""

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from server.bundle import Bundle
from server.contract.manifest import BundleError, Task, read_manifest
from server.inference.batching import BatchLimits
from server.inference.loaded_model import LoadedModel, LoadedModels
from server.memory.allocators import HostAllocator
from server.memory.memory_budget import HostBudget, HostFootprint
from server.memory.pool import PAGE_BYTES, BufferPool
from server.registry.footprints import host_budget, plan_bundle, plan_folder, with_peaks, with_second_image
from server.registry.model_cache import BUNDLED
from server.registry.warmup import Peaks, largest_batches, warm_up, warm_up_shapes
from server.runtimes.device import Device
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

# Weights up to this are opened by several threads at once: a graph's optimiser holds further copies of them meanwhile.
OPENED_TOGETHER_BYTES = 256 * 2**20
# In the order in which they are served: the first that can do a task is its default.
SHIPPED = ("clip-mini", "grounding-dino-mini", "glip-mini")


class ModelRegistry(LoadedModels):
    """The models being served, in the order of their bundles; loads, adds, replaces and releases them."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing | None = None) -> None:
        super().__init__()
        self._settings, self._metrics, self._tracing = settings, metrics, tracing or Tracing()
        self.budget = host_budget(settings)
        self.pool: BufferPool | None = None  # shared by all bundles, whose needs give its size
        self.failure: Exception | None = None
        self._closed = False
        metrics.ready.set(0)

    def load(self, bundles: Iterable[Bundle]) -> None:
        """Check, warm and serve `bundles`; ready when all are. A failure serves none and is kept in `failure`."""
        try:
            checked = list(bundles)
            _reject_duplicates([bundle.manifest.name for bundle in checked])
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
        log.info("ready: %s", ", ".join(model.name for model in self.models) or "no bundle")

    def budget_with(self, footprint: HostFootprint) -> HostBudget:
        """The budget with one more bundle; OverBudget where it does not fit beside those being served."""
        return self.budget.fit([*(model.footprint for model in self.models), footprint])

    def prepare(self, bundle: Bundle, peaks: Peaks | None = None) -> LoadedModel:
        """Check, warm and start one more bundle, which no request can choose yet; OverBudget, BundleError.

        `peaks` replaces the measurement of its memory. Called from any thread, one call at a time.
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
        """Put `new` in the place of `old`, or at the end without one; without `new`, retire `old`.

        Called from the event loop's thread, where requests choose, so that each finds either.
        """
        order = [new if model is old else model for model in self.models]
        if old is None:
            order.append(new)
        else:
            old.retired = True
        self._serve(*(model for model in order if model))

    def release(self, old: LoadedModel) -> None:
        """Free the memory and the metrics of a retired model that no request uses."""
        old.close(until=time.monotonic() + self._settings.shutdown_timeout_s)
        parts = {artefact.part for artefact in old.bundle.manifest.artefacts}
        successors = [model for model in self.models if model.name == old.name]
        if successors:
            kept = {artefact.part for artefact in successors[0].bundle.manifest.artefacts}
            self._metrics.forget_parts(old.name, parts - kept)
        else:
            self._metrics.forget(old.name, parts)
        self._fit_pool(self.budget)

    def close(self, *, until: float | None = None) -> bool:
        """Finish what was accepted and end the workers; returns whether that was done by `until` (`time.monotonic`).

        Without `until`, `shutdown_timeout_s` begins now.
        """
        if until is None:
            until = time.monotonic() + self._settings.shutdown_timeout_s
        self.ready = False
        self._closed = True
        self._metrics.ready.set(0)
        finished = [model.close(until=until) for model in self.models]
        if self.pool:
            self.pool.trim()
        return all(finished)

    def _serve(self, *models: LoadedModel) -> None:
        self.models = models
        self.budget = self.budget.fit([model.footprint for model in models])
        for model in models:
            for artefact in model.bundle.manifest.artefacts:
                valid = artefact.part not in model.bundle.uncertified
                self._metrics.certificate_valid.labels(model.name, artefact.part).set(valid)

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
        """Run the canary and the warm-up; the footprint that it measured, or that `peaks` give."""
        bundle.check_canary()
        wanted = self._settings.warm_up
        if wanted == "none":
            return planned
        measured = warm_up(bundle)
        footprint = with_peaks(planned, bundle.manifest, peaks or measured)
        if footprint.gpu and bundle.gpu:
            footprint = with_second_image(footprint, bundle.gpu, largest_batches(bundle))
        if wanted == "auto" and bundle.gpu:
            left = warm_up_shapes(bundle, batch=footprint.batch)
            if left:
                log.warning("%s: %d shape buckets are not warm, for want of time or memory", footprint.name, left)
        return footprint

    def _start(self, bundle: Bundle, footprint: HostFootprint) -> LoadedModel:
        limits = BatchLimits(
            capacity=self._settings.max_queue,
            max_batch=footprint.batch,
            max_wait_s=self._settings.max_wait_ms / 1000,
        )
        metrics = self._metrics.of(bundle.manifest.name)
        return LoadedModel(bundle, footprint, limits=limits, metrics=metrics, tracing=self._tracing)


def open_bundles(settings: Settings, *, task: Task | None = None) -> list[Bundle]:
    """The bundles that the settings name, else those that ship with the server; with `task`, those that can do it."""
    folders: Sequence[Path] = settings.bundle or [BUNDLED / name for name in SHIPPED if (BUNDLED / name).is_dir()]
    if not folders:
        raise BundleError(f"there is no bundle to serve: {BUNDLED} is empty and no --bundle was given")
    planned = [plan_folder(folder, read_manifest(folder), settings) for folder in folders]
    host_budget(settings).fit(planned)  # OverBudget before any artefact is opened
    together = sum(p.weights_bytes for p in planned) <= OPENED_TOGETHER_BYTES and not any(p.gpu for p in planned)
    with ThreadPoolExecutor(settings.run_threads if together else 1) as threads:
        opened = list(threads.map(partial(open_bundle, settings=settings), folders))
    return [bundle for bundle in opened if task is None or task in bundle.tasks]


def open_bundle(folder: Path, settings: Settings) -> Bundle:
    """The bundle in `folder`, its files and certificates checked; logs uncertified and unused artefacts."""
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


def _reject_duplicates(names: Sequence[str]) -> None:
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        listed = ", ".join(duplicates)
        raise BundleError(f"several bundles are named {listed}: a request could not say which it means")
