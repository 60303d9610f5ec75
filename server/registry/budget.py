"""Whether the bundles fit in memory, told before they are served: what is measured, what is estimated, and the limit.

The sum bounds what runs hold at once: every bundle's weights and its largest batches of images and of texts; the pool
of buffers and the prompt cache, full; and what the process held before. Not in it: request bodies and decoded images,
which `max_inflight_requests`, `max_queue` and `decode_threads` bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.bundle import TEXT_BATCH
from server.contract.image import canvas_size
from server.contract.manifest import BundleError, Manifest
from server.contract.text import token_bucket
from server.memory.cgroup import memory_limit
from server.memory.pool import size_class
from server.memory.process_memory import resident_bytes
from server.registry.gpu_budget import GpuFootprint, OnGpu, gpu_refusal
from server.registry.warmup import Peaks, largest_picture
from server.settings import Settings

# Numbers per token of a prompt's features: the widest text tower of the families has them (BERT base). The manifest
# does not tell, and only the pool's size follows from it.
_TEXT_WIDTH = 768
_FLOAT_BYTES = 4


class OverBudget(BundleError):
    """A bundle that does not fit in memory; the message says which bucket, and what to change."""


@dataclass(frozen=True)
class Footprint:
    """What one bundle takes, in bytes.

    `weights`: the sizes of its artefacts' files, an estimate of what a runtime makes of them. `image`, `texts`: the
    activations of one image and of the largest text batch, measured as the growth of the process over one image and a
    prompt or a few texts (the pool's blocks for the image are in it, and counted again with the pool); unless
    `measured` they are the inputs of one image alone, far less than a run takes. `image_buffers`, `buffers`: the
    pool's blocks for one image and for the largest batch, from their shapes. `gpu`: what it takes there, besides.
    """

    name: str
    bucket: str
    batch: int
    weights: int
    image: int
    texts: int
    measured: bool
    image_buffers: int
    buffers: int
    gpu: GpuFootprint | None = None

    @property
    def activations(self) -> int:
        """Of the largest batch of images beside the largest batch of texts.

        A batch is taken to need what its items do. ONNX Runtime's arena rounds up: of a Swin-T detector a batch of
        two took as much, one of three 12 % more.
        """
        return self.image * self.batch + self.texts

    @property
    def total(self) -> int:
        """Weights and activations; the buffers are the pool's."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Budget:
    """The `limit` (None: none) and what all bundles share, in bytes; a `pool` of 0 is sized by the bundles.

    `process` is what the process held before bundles were loaded, measured; 0 where the system does not tell.
    """

    limit: int | None
    process: int
    prompt_cache: int
    pool: int
    max_batch: int

    @classmethod
    def of(cls, settings: Settings) -> "Budget":
        """The budget that the settings ask for, of this process as it is now."""
        return cls(
            limit=settings.memory_limit_bytes or memory_limit(),
            process=resident_bytes() or 0,
            prompt_cache=settings.prompt_cache_bytes,
            pool=settings.pool_bytes,
            max_batch=settings.max_batch,
        )

    def plan(self, manifest: Manifest, weights: int, there: OnGpu | None = None) -> Footprint:
        """What a bundle takes at least, from its manifest, the bytes of its artefacts, and what it has on a GPU."""
        batch = min(self.max_batch, manifest.buckets.max_batch)
        bucket, image_buffers = _bucket(manifest, batch), sum(map(size_class, _inputs(manifest, 1)))
        return Footprint(
            name=manifest.name,
            bucket=bucket,
            batch=batch,
            weights=weights,
            image=sum(_inputs(manifest, 1)),
            texts=0,
            measured=False,
            image_buffers=image_buffers,
            buffers=sum(map(size_class, _inputs(manifest, batch))),
            gpu=None if there is None else GpuFootprint(manifest.name, bucket, batch, there, image_buffers),
        )

    def pool_cap(self, footprints: Sequence[Footprint]) -> int:
        """The most the pool may hold: the setting, else twice what the largest batch of every bundle needs."""
        return self.pool or 2 * sum(footprint.buffers for footprint in footprints)

    def total(self, footprints: Sequence[Footprint], count: int | None = None) -> int:
        """What serving the first `count` of these bundles may take, all of them without it."""
        shared = self.process + self.prompt_cache + self.pool_cap(footprints)
        return shared + sum(footprint.total for footprint in footprints[:count])

    def check(self, footprints: Sequence[Footprint]) -> None:
        """OverBudget for the first bundle that passes the limit, here or of its GPU, or whose images the pool cannot
        hold."""
        cap = self.pool_cap(footprints)
        for place, footprint in enumerate(footprints):
            if footprint.image_buffers > cap:
                raise OverBudget(
                    f"pool_bytes={cap} does not hold one image of {footprint.name} at its largest"
                    f" ({footprint.bucket}): set it to at least {footprint.image_buffers}, or to 0"
                )
            if self.limit is not None and self.total(footprints, place + 1) > self.limit:
                raise OverBudget(self._refusal(footprints, place, self.limit))
        if refusal := gpu_refusal([footprint.gpu for footprint in footprints if footprint.gpu]):
            raise OverBudget(refusal)

    def _refusal(self, footprints: Sequence[Footprint], place: int, limit: int) -> str:
        footprint, total = footprints[place], self.total(footprints, place + 1)
        parts = {
            f"{footprint.bucket} ({'measured on one' if footprint.measured else 'estimated, the inputs alone'})":
                footprint.activations,
            "its weights": footprint.weights,
            "bundles before it": sum(other.total for other in footprints[:place]),
            "the pool": self.pool_cap(footprints),
            "the prompt cache": self.prompt_cache,
            "the process": self.process,
        }  # fmt: skip
        listed = ", ".join(f"{what} {_mib(nbytes)}" for what, nbytes in parts.items() if nbytes)
        fitting = max(0, footprint.batch - -(-(total - limit) // footprint.image))
        lower = f"set max_batch to {fitting}, " if fitting else "lower max_batch, " if footprint.batch > 1 else ""
        return (
            f"{footprint.name} does not fit in memory: {listed} make {_mib(total)}, the limit is {_mib(limit)}."
            f" To mend it {lower}lower pool_bytes or prompt_cache_bytes, serve fewer bundles, or raise"
            " memory_limit_bytes"
        )


def with_peaks(footprint: Footprint, manifest: Manifest, peaks: Peaks | None) -> Footprint:
    """`footprint` with measured activations, of an image at least its inputs; as it is where nothing was measured."""
    if peaks is None:
        return footprint
    texts = 1 if manifest.detection else TEXT_BATCH
    return replace(footprint, image=max(peaks.image, footprint.image), texts=peaks.text * texts, measured=True)


def _inputs(manifest: Manifest, batch: int) -> list[int]:
    """The bytes of the arrays that a batch is assembled in (`Bundle.run_detector`, `Bundle.embed_images`)."""
    height, width, tokens = _shape(manifest)
    pixels = batch * height * width
    values = 3 * pixels * _FLOAT_BYTES
    return [values, pixels, batch * tokens * _TEXT_WIDTH * _FLOAT_BYTES] if manifest.detection else [values]


def _bucket(manifest: Manifest, batch: int) -> str:
    height, width, tokens = _shape(manifest)
    prompts = f" with {tokens} tokens" if manifest.detection else ""
    return f"{batch} image{'s' if batch > 1 else ''} of {height}x{width}{prompts}"


def _shape(manifest: Manifest) -> tuple[int, int, int]:
    """The largest bucket: height, width, tokens."""
    width, height = largest_picture(manifest)
    tokens = token_bucket(manifest.text.max_tokens, manifest.buckets.tokens)
    return (*canvas_size(height, width, manifest.buckets), tokens)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
