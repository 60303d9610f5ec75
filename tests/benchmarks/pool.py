"""Host buffer pool against fresh arrays: time, page faults and allocations of assembling the same batches.

    python -m tests.benchmarks.pool

Both variants alternate in one process, so that other load affects both alike. Ratios are medians over pairs; page
faults are minor faults of the process; allocations are arrays of a page or more, or blocks that the pool took from the
system.
"""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from server.bundle import Bundle, pad_features
from server.contract.image import pad_batch
from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool
from server.registry.model_registry import BUNDLED

ROUNDS = 40
TEXT_WIDTH, TOKENS = 256, 256
# Name, images, canvas (height, width), image size (height, width).
SHAPES = (
    ("clip-mini's canvas", 8, (64, 64), (64, 64)),
    ("grounding-dino-mini's canvas", 8, (128, 224), (128, 208)),
    ("Swin-T's, one image", 1, (800, 1088), (800, 1066)),
    ("Swin-T's, four images", 4, (800, 1088), (800, 1066)),
    ("Swin-T's, eight images", 8, (800, 1344), (800, 1333)),
)


@dataclass
class Variant:
    """One way to assemble a batch, with the time and page faults of its rounds."""

    assemble: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)

    def round(self) -> None:
        faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        self.assemble()
        self.seconds.append(time.perf_counter() - started)
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)

    @property
    def median_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)


class CountingAllocator(HostAllocator):
    """Host allocator that counts blocks."""

    count = 0

    def allocate(self, nbytes: int, *, stream: int | None = None):
        self.count += 1
        return super().allocate(nbytes, stream=stream)


def main() -> None:
    print(
        f"{'assembling a batch':32} {'new arrays':>11} {'leased':>9} {'time':>6} {'page faults':>16} {'allocated':>10}"
    )
    for name, batch, canvas, size in SHAPES:
        print(_assembly(name, batch, canvas, size))
    print(f"\n{'a whole run of a bundled model':32} {'own pool':>11} {'shared':>9} {'time':>6} {'page faults':>16}")
    for name, batch in (("grounding-dino-mini", 1), ("grounding-dino-mini", 8), ("clip-mini", 8)):
        print(_run(name, batch))


def _assembly(name: str, batch: int, canvas: tuple[int, int], size: tuple[int, int]) -> str:
    pixels = [np.random.default_rng(0).random((3, *size), np.float32)] * batch
    features = [np.ones((TOKENS // 2, TEXT_WIDTH), np.float32)] * batch
    allocator = CountingAllocator()
    pool = BufferPool(allocator)

    def new() -> None:
        _assemble_in_arrays(pixels, canvas, features)

    def leased() -> None:
        with (
            pool.lease((batch, 3, *canvas), np.float32, owner=name) as values,
            pool.lease((batch, *canvas), np.bool_, owner=name) as mask,
            pool.lease((batch, TOKENS, TEXT_WIDTH), np.float32, owner=name) as padded,
        ):
            pad_batch(pixels, canvas, out=(values, mask))
            pad_features(features, out=padded)

    before, now = _alternate(new, leased)
    return f"{_row(name, before, now)} {3 * ROUNDS:>5} -> {allocator.count}"


def _assemble_in_arrays(pixels: Sequence[np.ndarray], canvas: tuple[int, int], features: Sequence[np.ndarray]) -> None:
    """Assemble a batch in three fresh arrays."""
    values = np.zeros((len(pixels), 3, *canvas), np.float32)
    mask = np.zeros((len(pixels), *canvas), np.bool_)
    for row, image in enumerate(pixels):
        _, height, width = image.shape
        values[row, :, :height, :width] = image
        mask[row, :height, :width] = True
    padded = np.zeros((len(pixels), TOKENS, TEXT_WIDTH), np.float32)
    for row, feature in zip(padded, features, strict=True):
        row[: len(feature)] = feature


def _run(name: str, batch: int) -> str:
    bundle = Bundle(BUNDLED / name, threads=1)
    own, shared = bundle.pool, BufferPool(HostAllocator())
    pixels = [bundle.preprocess(Image.new("RGB", (640, 480)))] * batch
    if "detect" in bundle.tasks:
        prompts = [bundle.prompts.from_labels(["a dog", "a bicycle"])] * batch
        features = bundle.encode_prompts(prompts)

    def run(pool: BufferPool) -> None:
        bundle.pool = pool
        if "detect" in bundle.tasks:
            bundle.run_detector(pixels, prompts, features)
        else:
            bundle.embed_images(pixels)

    before, now = _alternate(lambda: run(own), lambda: run(shared))
    return _row(f"{name}, batch {batch}", before, now)


def _alternate(before: Callable[[], object], now: Callable[[], object]) -> tuple[Variant, Variant]:
    variants = Variant(before), Variant(now)
    for place in range(ROUNDS):
        for variant in variants if place % 2 else reversed(variants):
            variant.round()
    return variants


def _row(name: str, before: Variant, now: Variant) -> str:
    faults = f"{statistics.median(before.faults):.0f} -> {statistics.median(now.faults):.0f}"
    ratio = statistics.median(b / n for b, n in zip(before.seconds, now.seconds, strict=True))
    return f"{name:32} {before.median_ms:8.3f} ms {now.median_ms:6.3f} ms {ratio:5.2f}x {faults:>16}"


if __name__ == "__main__":
    main()
