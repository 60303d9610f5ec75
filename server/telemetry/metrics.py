"""Prometheus metrics, in one registry per app; prompts, labels and other user input are never metric labels."""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from server.errors import Kind
from server.memory.pool import BufferPool

# A creation time beside every series would double the page, and be little more than the start of the process.
disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (4, 8, 16, 32, 64, 128, 256, 512)
PIXELS = (1e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7, 6.4e7)


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of one model, its label filled in."""

    inferences: Counter
    executions: Counter
    batch_size: Histogram
    queue_depth: Gauge
    queue_duration: Histogram
    preprocess_duration: Histogram
    text_encode_duration: Histogram
    infer_duration: Histogram
    postprocess_duration: Histogram
    prompt_tokens: Histogram
    prompt_cache_hits: Counter
    prompt_cache_misses: Counter
    prompt_cache_evictions: Counter


class Metrics:
    """All metrics of one app, named as the attributes with the prefix `openset_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="openset", registry=self.registry)
        self.requests = self._counter("requests", "Requests answered.", "endpoint", "status")
        self.rejected = self._counter("rejected", "Requests refused, by kind of problem.", "reason")
        self.cancelled = self._counter(
            "cancelled",
            "Requests dropped as their client disconnected or their deadline passed, by stage.",
            "stage",
        )
        self.request_duration = self._seconds("request", "Duration of a request, with its response.", "endpoint")
        self.decode_duration = self._seconds("decode", "Decoding one image.")
        self.fetch_duration = self._seconds("fetch", "Downloading a request's images from their URLs.")
        self.fetched_bytes = self._counter("fetched_bytes", "Bytes of images downloaded from URLs.")
        self.image_pixels = self._histogram("image_pixels", "Pixels of an image.", PIXELS)
        self.inflight_requests = self._gauge("inflight_requests", "Requests in progress.")
        self.jobs = self._gauge("jobs", "Jobs that are held, by state.", "state")
        self.tasks = self._gauge("tasks", "Tasks of the event loop.")
        self.prompt_cache_bytes = self._gauge("prompt_cache_bytes", "Memory of the prompt cache.")
        self.certificate_valid = self._gauge(
            "certificate_valid", "1 if the artefact's certificate is valid.", "model", "part"
        )
        self._pool_reserved = self._gauge("pool_reserved_bytes", "Memory reserved by a buffer pool.", "pool")
        self._pool_in_use = self._gauge("pool_in_use_bytes", "Memory of a buffer pool in use by model runs.", "pool")
        self._pool_high_water = self._gauge("pool_high_water_bytes", "Peak memory of a buffer pool in use.", "pool")
        self._pool_leaked = self._gauge("pool_leaked_blocks", "Blocks lost without a release.", "pool")
        self.ready = self._gauge("ready", "1 once every bundle is loaded, checked and warmed up.")
        self.build_info = self._gauge(
            "build_info", "Versions, as labels of a constant 1.", "version", "python", "runtime"
        )
        versions = package_version("openset"), platform.python_version(), f"onnxruntime {_runtime()}"
        self.build_info.labels(*versions).set(1)
        self._inferences = self._counter("inferences", "Images run through a model.", "model")
        self._executions = self._counter("executions", "Model runs; a run holds a batch of images.", "model")
        self._batch_size = self._histogram("batch_size", "Images in a model run.", BATCH_SIZES, "model")
        self._queue_depth = self._gauge("queue_depth", "Images accepted that do not run yet.", "model")
        self._queue = self._seconds("queue", "Time of an image between preprocessing and its model run.", "model")
        self._preprocess = self._seconds("preprocess", "Resizing and normalising one image.", "model")
        self._text_encode = self._seconds("text_encode", "Encoding a request's texts that are not cached.", "model")
        self._infer = self._seconds("infer", "One model run.", "model")
        self._postprocess = self._seconds("postprocess", "Postprocessing model outputs into one response.", "model")
        self._prompt_tokens = self._histogram("prompt_tokens", "Tokens of a detection prompt.", TOKENS, "model")
        self._hits = self._counter("prompt_cache_hits", "Texts whose features were cached or being computed.", "model")
        self._misses = self._counter("prompt_cache_misses", "Texts that had to be encoded.", "model")
        self._evictions = self._counter("prompt_cache_evictions", "Features evicted to make room.", "model")
        metrics = (value for value in vars(self).values() if isinstance(value, Counter | Gauge | Histogram))
        self._of_models = [metric for metric in metrics if metric._labelnames == ("model",)]

    def of(self, model: str) -> ModelMetrics:
        """The metrics of a model, by its name."""
        return ModelMetrics(
            inferences=self._inferences.labels(model),
            executions=self._executions.labels(model),
            batch_size=self._batch_size.labels(model),
            queue_depth=self._queue_depth.labels(model),
            queue_duration=self._queue.labels(model),
            preprocess_duration=self._preprocess.labels(model),
            text_encode_duration=self._text_encode.labels(model),
            infer_duration=self._infer.labels(model),
            postprocess_duration=self._postprocess.labels(model),
            prompt_tokens=self._prompt_tokens.labels(model),
            prompt_cache_hits=self._hits.labels(model),
            prompt_cache_misses=self._misses.labels(model),
            prompt_cache_evictions=self._evictions.labels(model),
        )

    def forget(self, model: str, parts: Iterable[str]) -> None:
        """Remove all series of a model that is no longer served."""
        for metric in self._of_models:
            metric.remove(model)
        self.forget_parts(model, parts)

    def forget_parts(self, model: str, parts: Iterable[str]) -> None:
        """Remove the series of parts that a model no longer has."""
        for part in parts:
            self.certificate_valid.remove(model, part)

    def watch(self, pool: BufferPool) -> None:
        """Export the statistics of `pool`, read at each scrape."""
        self._pool_reserved.labels(pool.name).set_function(lambda: pool.stats().reserved)
        self._pool_in_use.labels(pool.name).set_function(lambda: pool.stats().in_use)
        self._pool_high_water.labels(pool.name).set_function(lambda: pool.stats().high_water)
        self._pool_leaked.labels(pool.name).set_function(lambda: sum(pool.stats().leaked.values()))

    def watch_decoders(self, cpu_seconds: Callable[[], float]) -> None:
        """Export the processor time of the decoders' processes, which this process's own leaves out."""
        self.registry.register(_DecoderTime(cpu_seconds))

    def reject(self, kind: Kind) -> None:
        """Count a refused request; internal errors and cancelled requests are not refusals."""
        if kind.status not in (499, 500, 504):
            self.rejected.labels(kind.slug).inc()

    def exposition(self) -> bytes:
        """The metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"openset_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"openset_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"openset_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return self._histogram(f"{name}_duration_seconds", text, SECONDS, *labels)


class _DecoderTime(Collector):
    def __init__(self, cpu_seconds: Callable[[], float]) -> None:
        self._cpu_seconds = cpu_seconds

    def collect(self) -> Iterator[Metric]:
        text = "Processor time of the processes that decode images."
        yield CounterMetricFamily("openset_decoder_cpu_seconds", text, self._cpu_seconds())


def package_version(package: str) -> str:
    """The version of a package, "unknown" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def _runtime() -> str:
    versions = (package_version(package) for package in ("onnxruntime", "onnxruntime-gpu"))
    return next((found for found in versions if found != "unknown"), "unknown")
