"""Host batches assembled in new arrays and in leases of a buffer pool, side by side: from which size on a lease pays.

    python -m tests.benchmarks.pool

Both ways alternate in one process, so that other load affects both alike. Times are medians, the ratio is the median of
new array over lease, so above 1 the pool is faster; page faults are minor ones of the whole process.
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from server import bundle as bundles
from server.bundle import Bundle
from server.contract.image import pad_batch
from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool
from server.registry.model_cache import BUNDLED

ROUNDS = 40
# Images, and their (height, width): of clip-mini, of grounding-dino-mini, of a detector with a Swin-T backbone.
SHAPES = (
    (1, (64, 64)), (8, (64, 64)), (1, (128, 224)), (8, (128, 224)),
    *((count, (800, 1088)) for count in (1, 2, 3, 4, 6, 8)), (8, (800, 1344)),
)  # fmt: skip


@dataclass
class Way:
    """One way to assemble a batch, and the time and page faults of its rounds."""

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


def main() -> None:
    head = f"{'new arrays':>12} {'leased':>12} {'ratio':>6} {'page faults':>16}"
    print(f"{'assembling a batch':32} {'MiB':>6} {head}")
    for batch, size in SHAPES:
        print(_assembly(batch, size))
    print(f"\n{'a whole run of a bundled model':39} {head}")
    for name, batch in (("grounding-dino-mini", 1), ("grounding-dino-mini", 8), ("clip-mini", 1), ("clip-mini", 8)):
        print(_run(name, batch))


def _assembly(batch: int, size: tuple[int, int]) -> str:
    pixels = [np.random.default_rng(0).random((3, *size), np.float32)] * batch
    pool = BufferPool(HostAllocator())

    def leased() -> None:
        with (
            pool.lease((batch, 3, *size), np.float32, owner="benchmark") as values,
            pool.lease((batch, *size), np.bool_, owner="benchmark") as mask,
        ):
            pad_batch(pixels, size, out=(values, mask))

    new, lease = _alternate(lambda: pad_batch(pixels, size), leased)
    name = f"{batch} of {size[0]}x{size[1]}"
    return f"{name:32} {batch * 12 * size[0] * size[1] / 2**20:6.2f} {_row(new, lease)}"


def _run(name: str, batch: int) -> str:
    bundle = Bundle(BUNDLED / name, threads=1)
    bundle.pool = BufferPool(HostAllocator())
    pixels = [bundle.preprocess(Image.new("RGB", (640, 480)))] * batch
    if "detect" in bundle.tasks:
        prompts = [bundle.prompts.from_labels(["a dog", "a bicycle"])] * batch
        features = bundle.encode_prompts(prompts)

    def run(leased_bytes: int) -> None:
        bundles.LEASED_BYTES = leased_bytes
        if "detect" in bundle.tasks:
            bundle.run_detector(pixels, prompts, features)
        else:
            bundle.embed_images(pixels)

    new, lease = _alternate(lambda: run(2**40), lambda: run(0))
    return f"{f'{name}, batch {batch}':39} {_row(new, lease)}"


def _alternate(new: Callable[[], object], leased: Callable[[], object]) -> tuple[Way, Way]:
    ways = Way(new), Way(leased)
    for place in range(ROUNDS):
        for way in ways if place % 2 else reversed(ways):
            way.round()
    return ways


def _row(new: Way, leased: Way) -> str:
    faults = f"{statistics.median(new.faults):.0f} -> {statistics.median(leased.faults):.0f}"
    ratio = statistics.median(a / b for a, b in zip(new.seconds, leased.seconds, strict=True))
    return f"{new.median_ms:9.3f} ms {leased.median_ms:9.3f} ms {ratio:5.2f}x {faults:>16}"


if __name__ == "__main__":
    main()
