"""Whether the bundles fit in a GPU's memory: told by records before they are loaded, and again when they are warm.

The sum of their weights (the sizes of the files that run there), of the one block that all engines compute in, which is
as large as the most demanding needs, and of every bundle's largest batch: the buffers of its inputs, and once that is
measured, all that a further image takes. Not in it: what CUDA and its libraries load for themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from server.bundle import Bundle
from server.contract.manifest import Artefact, Manifest
from server.memory.cuda import CudaError
from server.memory.pool import PoolExhausted
from server.runtimes.artefact_selection import choose
from server.runtimes.device import Device
from server.runtimes.gpu import Gpu, open_gpu
from server.runtimes.gpu_detection import this_machine
from server.runtimes.ort import runs_on_gpu


@dataclass(frozen=True)
class OnGpu:
    """What a bundle has on a GPU whatever it runs, in bytes.

    `limit`: of the device, for all bundles; `weights`: the sizes of the files; `block`: what its most demanding engine
    computes in, 0 where no record tells.
    """

    device: str
    limit: int
    weights: int
    block: int


@dataclass(frozen=True)
class GpuFootprint:
    """What a bundle takes of a GPU, in bytes; `image`: of each of the `batch` images, its inputs unless `measured`."""

    name: str
    bucket: str
    batch: int
    there: OnGpu
    image: int
    measured: bool = False

    @property
    def batches(self) -> int:
        """Of its largest batch, beside weights and block."""
        return self.image * self.batch


def on_gpu_by_record(folder: Path, manifest: Manifest, device: Device, *, allow_uncertified: bool) -> OnGpu | None:
    """What the bundle in `folder` is going to have on the GPU, None for nothing; no artefact is opened for it."""
    artefacts = manifest.artefacts
    machine = this_machine({artefact.runtime for artefact in artefacts}, device)
    chosen = choose(artefacts, machine, allow_uncertified=allow_uncertified).chosen.values()
    graphs = runs_on_gpu(device)
    there = [artefact for artefact in chosen if artefact.engine is not None or graphs]
    if not there:
        return None
    try:
        gpu = open_gpu(device)
    except (CudaError, MemoryError):
        return None  # whoever opens the artefacts tells what this means for them
    blocks = [artefact.engine.activation_bytes or 0 for artefact in there if artefact.engine is not None]
    return _on_gpu(gpu, folder, there, max(blocks, default=0))


def on_gpu(bundle: Bundle) -> OnGpu | None:
    """What an open bundle has on its GPU, None without one."""
    if bundle.gpu is None:
        return None
    there = [bundle.artefacts[part] for part in bundle.on_gpu]
    return _on_gpu(bundle.gpu, bundle.folder, there, max(bundle.activation_bytes.values()))


def measured_on_gpu(footprint: GpuFootprint, gpu: Gpu, run: Callable[[int], object]) -> GpuFootprint:
    """`footprint` with what a second image takes, which no runtime tells; `run` runs so many at their largest."""
    if footprint.batch < 2:
        return footprint
    try:
        run(1)
        before, _ = gpu.cuda.memory()
        run(2)
    except PoolExhausted:
        return footprint
    grown = before - gpu.cuda.memory()[0]
    return replace(footprint, image=max(footprint.image, grown), measured=True)


def gpu_total(footprints: Sequence[GpuFootprint]) -> int:
    """What these bundles take of the GPU they share."""
    return sum(f.there.weights + f.batches for f in footprints) + _block(footprints)


def gpu_refusal(footprints: Sequence[GpuFootprint]) -> str | None:
    """The first bundle that passes the limit, by which parts, and what to change; None where all fit."""
    for place, footprint in enumerate(footprints):
        upto = footprints[: place + 1]
        limit, total = footprint.there.limit, gpu_total(upto)
        if total > limit:
            return _refusal(footprint, upto[:-1], total - limit, _block(upto))
    return None


def _refusal(footprint: GpuFootprint, before: Sequence[GpuFootprint], excess: int, block: int) -> str:
    there = footprint.there
    basis = "measured" if footprint.measured else "its inputs alone"
    parts = {
        f"{footprint.bucket} ({basis})": footprint.batches,
        "its weights": there.weights,
        "the block that engines compute in": block,
        "bundles before it": sum(other.there.weights + other.batches for other in before),
    }
    listed = ", ".join(f"{what} {_mib(nbytes)}" for what, nbytes in parts.items() if nbytes)
    fitting = footprint.batch - -(-excess // footprint.image)
    lower = f"set max_batch to {fitting}, " if fitting > 0 else ""
    smaller = "build engines of fewer or smaller shapes, " if block else ""
    return (
        f"{footprint.name} does not fit in the memory of {there.device}: {listed} make {_mib(there.limit + excess)},"
        f" the limit is {_mib(there.limit)}. To mend it {lower}{smaller}serve fewer bundles, free memory of the GPU"
        " or raise gpu_memory_bytes, or set device to cpu"
    )


def _on_gpu(gpu: Gpu, folder: Path, artefacts: Sequence[Artefact], block: int) -> OnGpu:
    weights = sum(file.stat().st_size for a in artefacts if (file := folder / a.file).is_file())
    return OnGpu(device=gpu.name, limit=gpu.memory_bytes or gpu.free_bytes, weights=weights, block=block)


def _block(footprints: Sequence[GpuFootprint]) -> int:
    return max((footprint.there.block for footprint in footprints), default=0)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
