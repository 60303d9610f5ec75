"""Memory that a bundle takes of the host and of a GPU: planned from its manifest, measured once it is warm."""

from collections.abc import Callable, Sequence
from pathlib import Path

from server.bundle import TEXT_BATCH, Bundle, artefact_bytes, weights_bytes
from server.contract.image import canvas_size
from server.contract.manifest import Artefact, Manifest
from server.contract.text import token_bucket
from server.memory.cuda import CudaError
from server.memory.memory_budget import GpuFootprint, HostBudget, HostFootprint
from server.memory.pool import PoolExhausted, size_class
from server.memory.process_resources import memory_limit, resident_bytes
from server.registry.warmup import Peaks, largest_picture
from server.runtimes.artefact_selection import choose
from server.runtimes.device import Device, this_machine
from server.runtimes.gpu import Gpu, open_gpu
from server.runtimes.ort import runs_on_gpu
from server.settings import Settings

# Numbers per token of a prompt's features: the widest text tower of the families has them (BERT base). The manifest
# does not tell, and only the pool's size follows from it.
_TEXT_WIDTH = 768
_FLOAT_BYTES = 4


def host_budget(settings: Settings) -> HostBudget:
    """The budget that the settings ask for, of this process as it is now, without bundles."""
    return HostBudget(
        limit_bytes=settings.memory_limit_bytes or memory_limit(),
        total_bytes=0,
        process_bytes=resident_bytes() or 0,
        pool_bytes=0,
        prompt_cache_bytes=settings.prompt_cache_bytes,
        pool_setting=settings.pool_bytes,
    ).fit(())


def plan_folder(folder: Path, manifest: Manifest, settings: Settings) -> HostFootprint:
    """Least memory of the bundle in `folder`, by its manifest and files; no artefact is opened."""
    plan = _plan(manifest, weights_bytes(folder, manifest), settings)
    device = Device(settings.device, settings.gpu_memory_bytes)
    machine = this_machine({artefact.runtime for artefact in manifest.artefacts}, device)
    graphs = runs_on_gpu(device)
    uncertified = settings.allow_uncertified
    chosen = choose(manifest.artefacts, machine, allow_uncertified=uncertified, graphs_on_gpu=graphs).chosen.values()
    on_gpu = [artefact for artefact in chosen if artefact.engine or graphs]
    if not on_gpu:
        return plan
    try:
        gpu = open_gpu(device)
    except (CudaError, MemoryError):
        return plan  # opening the artefacts fails too, and says what that means for each
    block = max((artefact.engine.activation_bytes or 0 for artefact in on_gpu if artefact.engine), default=0)
    return _with_gpu(plan, gpu, folder, on_gpu, block)


def plan_bundle(bundle: Bundle, settings: Settings) -> HostFootprint:
    """Least memory of an open bundle."""
    plan = _plan(bundle.manifest, bundle.weights_bytes, settings)
    if bundle.gpu is None:
        return plan
    on_gpu = [bundle.artefacts[part] for part in bundle.on_gpu]
    return _with_gpu(plan, bundle.gpu, bundle.folder, on_gpu, max(bundle.activation_bytes.values()))


def with_peaks(footprint: HostFootprint, manifest: Manifest, peaks: Peaks | None) -> HostFootprint:
    """`footprint` with measured activations: the growth of the process over one image and a prompt or a few texts.

    An image takes at least its inputs; its buffers are counted again with the pool. A batch is taken to need what its
    images do one by one; ONNX Runtime's arena rounds up: three images of a Swin-T detector took 12 % more than that.
    Unchanged where nothing was measured.
    """
    if peaks is None:
        return footprint
    texts = peaks.text * (1 if manifest.detection else TEXT_BATCH)
    activations = max(peaks.image * footprint.batch, footprint.batch_bytes) + texts
    measured = {"activations_bytes": activations, "texts_bytes": texts, "measured": True}
    return footprint.model_copy(update=measured)


def with_second_image(footprint: HostFootprint, gpu: Gpu, run: Callable[[int], object]) -> HostFootprint:
    """`footprint` with the GPU memory that a second image takes, which no runtime tells.

    run: runs so many images at their largest.
    """
    if footprint.gpu is None or footprint.batch < 2:
        return footprint
    try:
        run(1)
        before, _ = gpu.cuda.memory()
        run(2)
    except PoolExhausted:
        return footprint
    batch_bytes = max(footprint.batch * (before - gpu.cuda.memory()[0]), footprint.gpu.batch_bytes)
    on_gpu = footprint.gpu.model_copy(update={"batch_bytes": batch_bytes, "measured": True})
    return footprint.model_copy(update={"gpu": on_gpu})


def _plan(manifest: Manifest, weights: int, settings: Settings) -> HostFootprint:
    batch = min(settings.max_batch, manifest.buckets.max_batch)
    width, height = largest_picture(manifest)
    height, width = canvas_size(height, width, manifest.buckets)
    tokens = token_bucket(manifest.text.max_tokens, manifest.buckets.tokens)
    prompts = f" with {tokens} tokens" if manifest.detection else ""
    # The arrays that a batch is assembled in (`Bundle.run_detector`, `Bundle.embed_images`).
    inputs = [3 * height * width * _FLOAT_BYTES]
    if manifest.detection:
        inputs += [height * width, tokens * _TEXT_WIDTH * _FLOAT_BYTES]
    return HostFootprint(
        name=manifest.name,
        bucket=f"{batch} image{'s' if batch > 1 else ''} of {height}x{width}{prompts}",
        batch=batch,
        weights_bytes=weights,
        activations_bytes=batch * sum(inputs),
        measured=False,
        buffers_bytes=sum(size_class(batch * nbytes) for nbytes in inputs),
        texts_bytes=0,
        image_buffers_bytes=sum(map(size_class, inputs)),
    )


def _with_gpu(
    plan: HostFootprint, gpu: Gpu, folder: Path, artefacts: Sequence[Artefact], block_bytes: int
) -> HostFootprint:
    """`plan` with these artefacts on the GPU, whose most demanding engine computes in a block of that size."""
    footprint = GpuFootprint(
        device=gpu.name,
        weights_bytes=sum(artefact_bytes(folder, artefact) for artefact in artefacts),
        block_bytes=block_bytes,
        batch_bytes=plan.batch * plan.image_buffers_bytes,
        measured=False,
        name=plan.name,
        bucket=plan.bucket,
        batch=plan.batch,
        limit_bytes=gpu.memory_bytes or gpu.free_bytes,
    )
    return plan.model_copy(update={"gpu": footprint})
