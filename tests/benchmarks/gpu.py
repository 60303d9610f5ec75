"""GPU acceptance check: agreement with PyTorch, engines, memory under load, and latency per shape bucket.

    python -m tests.benchmarks.gpu --device cuda:0 --bundle bundles/grounding-dino-swin-t

Runs the bundled models and those given and prints a table per check. A check that fails does not stop the others; the
exit status is then 1. Engines are built for this GPU if TensorRT-RTX is installed, and certified in copies of the
bundles. `--device cpu` runs the same on the CPU, without engines.
"""

import argparse
import asyncio
import io
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from export.certificate.parity import FLOORS, Figures, limits_of, measure, shortfalls
from export.certificate.parity_cases import unpack_cases
from export.certificate.verify import verify
from export.progress import Progress
from export.tensorrt.engines import EngineTarget, add_engines, load_module
from server.bundle import Bundle
from server.contract.manifest import read_manifest
from server.errors import Fault, InferenceFailed, WorkerStopped
from server.inference.pipeline import Pipeline
from server.memory.pool import BufferPool
from server.memory.process_resources import resident_bytes
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import ModelRegistry, open_bundles
from server.request_context import RequestContext
from server.requests import ClassifyRequest, DetectRequest
from server.runtimes.device import Device, gpu_at
from server.settings import read_settings
from server.telemetry.metrics import Metrics

QUIET = Progress(quiet=True)
WORDS = ("dog", "red car", "bicycle", "small house", "cat", "guitar", "boat", "umbrella")
SIZES = ((64, 48), (320, 240), (640, 480), (480, 640), (1000, 300), (333, 777))  # (width, height)
CONCURRENCY = 8  # requests
BATCHES = (1, 4, 8)
LABELS = (1, 8, 30)
WARM_RUNS, RUNS = 3, 10  # the third run of a shape is captured as a CUDA graph
Row = Sequence[object]


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    device = Device(args.device)
    print(f"{platform.platform()}, Python {platform.python_version()}, device {device.name}: {_gpu(device)}")
    folders = [*sorted(path.parent for path in BUNDLED.glob("*/manifest.json")), *args.bundle]
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(shutil.copytree(folder, Path(scratch) / folder.name)) for folder in folders]
        answered = [
            _table("graphs beside PyTorch", ("bundle", "part", "provider", "result"), lambda: parity(copies, device)),
            _table("engines", ("bundle", "engine", "result"), lambda: engines(copies, device)),
            _table("load", ("when", "what", "MiB, or count"), lambda: load(copies, device, args.requests)),
            _table("latency", ("bundle", "bucket", "median", "slowest"), lambda: latency(copies, device)),
        ]
    return 0 if all(answered) else 1


def parity(folders: Sequence[Path], device: Device) -> Iterator[Row]:
    """Figures of each graph in the runtime of this device, held to the limits of its certificate."""
    for folder in folders:
        graphs = {a.file for a in read_manifest(folder).artefacts if a.engine is None and a.precision == "fp32"}
        bundle = Bundle(folder, files=graphs, device=device)
        bundle.check_canary()
        with np.load(folder / bundle.manifest.reference.file) as file:
            arrays = dict(file)
        for part, figures in measure(bundle, unpack_cases(arrays), arrays).items():
            yield folder.name, part, bundle.providers[part], _verdict(figures)


def engines(folders: Sequence[Path], device: Device) -> Iterator[Row]:
    """Build, run and certify engines; those that agree serve in the later checks."""
    if device.ordinal is None:
        yield "all", "all", "not run: the device is cpu"
        return
    found = gpu_at(device.ordinal)
    for folder in folders:
        try:
            if found is not None and load_module("tensorrt-rtx"):
                add_engines(folder, EngineTarget("tensorrt-rtx", (found[1],)), progress=QUIET)
        except ValueError as error:
            yield folder.name, "tensorrt-rtx", f"not built: {error}"
        verdict = verify(folder, QUIET)
        yield from ((folder.name, file, "runs and agrees") for file in verdict.certified)
        yield from ((folder.name, "", f"WRONG: {fault}") for fault in verdict.faults)
        yield from ((folder.name, "", f"not measured: {note}") for note in verdict.notes)


def load(folders: Sequence[Path], device: Device, count: int) -> Iterator[Row]:
    """Memory and pools before, during and after `count` mixed requests through the server's pipeline."""
    settings = read_settings(bundle=tuple(folders), device=device.name)
    metrics = Metrics()
    registry = ModelRegistry(settings, metrics)
    pipeline = Pipeline(settings, metrics, registry)
    try:
        bundles = open_bundles(settings)
        registry.load(bundles)
        yield from _memory("before", registry, bundles)
        outcomes: Counter[str] = Counter()
        for when, part in (("after a tenth", count // 10), ("after all", count - count // 10)):
            outcomes += asyncio.run(_requests(pipeline, bundles, part))
            yield from _memory(when, registry, bundles)
        yield from (("after all", outcome, number) for outcome, number in sorted(outcomes.items()))
    finally:
        pipeline.close()


def latency(folders: Sequence[Path], device: Device) -> Iterator[Row]:
    """Latency of a run per bucket, copies included, after warm-up runs."""
    for folder in folders:
        bundle = Bundle(folder, device=device)
        for name, run in _runs(bundle):
            for _ in range(WARM_RUNS):
                run()
            times = sorted(_seconds(run) for _ in range(RUNS))
            yield folder.name, name, f"{1000 * statistics.median(times):.2f} ms", f"{1000 * times[-1]:.2f} ms"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", default="auto", help="cpu, cuda:N or auto (default: auto)")
    parser.add_argument("--requests", type=int, default=2000, help="mixed requests of the load (default: 2000)")
    parser.add_argument("--bundle", action="append", type=Path, default=[], help="one more bundle, repeatable")
    return parser.parse_args(argv)


def _table(title: str, heads: Row, rows: Callable[[], Iterator[Row]]) -> bool:
    """Print the rows as they are computed; true if all were, and none is wrong."""
    print(f"\n## {title}\n\n| {' | '.join(map(str, heads))} |\n|{' --- |' * len(heads)}", flush=True)
    right = True
    try:
        for row in rows():
            print(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |", flush=True)
            right = right and not any("WRONG" in str(cell) for cell in row)
    except Exception as error:  # the other tables are still useful
        print(f"\nFAILED: {type(error).__name__}: {error}", flush=True)
        return False
    return right


def _verdict(figures: Figures) -> str:
    if wrong := shortfalls(figures):
        return f"WRONG: {'; '.join(wrong)}"
    limits = limits_of("fp32")
    used = {name: value / limits[name] for name, value in figures.items() if name in limits and name not in FLOORS}
    nearest = max(used, key=lambda name: used[name])
    return f"right; nearest to its limit: {nearest} {figures[nearest]:.2g} of {limits[nearest]:g}"


def _memory(when: str, registry: ModelRegistry, bundles: Sequence[Bundle]) -> Iterator[Row]:
    yield when, "process", _mib(resident_bytes() or 0)
    gpus = {bundle.gpu.name: bundle.gpu for bundle in bundles if bundle.gpu}
    pools: list[BufferPool | None] = [registry.pool]
    for name, gpu in gpus.items():
        free, total = gpu.cuda.memory()
        yield when, f"{name}, by all processes", _mib(total - free)
        yield when, f"{name}, activations of engines", _mib(gpu.activations.nbytes)
        pools += [gpu.staging, gpu.buffers]
    for pool in filter(None, pools):
        stats = pool.stats()
        shown = ", ".join(map(_mib, (stats.reserved, stats.in_use, stats.high_water)))
        yield when, f"pool {pool.name}: reserved, in use, most in use", shown
        if stats.leaked:
            yield when, f"pool {pool.name}", f"WRONG: leaked {dict(stats.leaked)}"


async def _requests(pipeline: Pipeline, bundles: Sequence[Bundle], count: int) -> Counter[str]:
    """Outcomes of `count` mixed requests, some of them malformed."""
    pictures, semaphore = [_picture(size) for size in SIZES], asyncio.Semaphore(CONCURRENCY)

    async def one(place: int) -> str:
        bundle = bundles[place % len(bundles)]
        picture = b"no picture" if place % 20 == 19 else pictures[place % len(pictures)]
        fields = {
            "images": [picture] * (1 + place % 3),
            "labels": [WORDS[(place + label) % len(WORDS)] for label in range(1 + place % 7)],
            "model": bundle.manifest.name,
        }
        async with semaphore:
            try:
                if "detect" in bundle.tasks:
                    await pipeline.detect(DetectRequest.model_validate(fields), RequestContext())
                else:
                    await pipeline.classify(ClassifyRequest.model_validate(fields), RequestContext())
            except (InferenceFailed, WorkerStopped) as fault:
                return f"WRONG: {fault}"
            except Fault as fault:
                return f"refused: {type(fault).__name__}"
        return "answered"

    return Counter(await asyncio.gather(*map(one, range(count))))


def _runs(bundle: Bundle) -> Iterator[tuple[str, Callable[[], object]]]:
    batches = sorted({min(batch, bundle.manifest.buckets.max_batch) for batch in BATCHES})
    if "detect" not in bundle.tasks:
        side = bundle.manifest.preprocessing.shorter
        image = bundle.preprocess(Image.new("RGB", (side, side)))
        for batch in batches:
            yield f"{batch} of {side}x{side}", lambda batch=batch: bundle.embed_images([image] * batch)
        return
    for size, labels, batch in product(((640, 480), (480, 640)), LABELS, batches):
        pixels = bundle.preprocess(Image.new("RGB", size))
        prompts = [bundle.prompts.from_labels([WORDS[place % len(WORDS)] for place in range(labels)])] * batch
        height, width = bundle.canvas(pixels)
        name = f"{batch} of {height}x{width}, {bundle.token_bucket(prompts)} tokens"
        given = ([pixels] * batch, prompts, bundle.encode_prompts(prompts))
        yield name, lambda given=given: bundle.run_detector(*given)


def _picture(size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(encoded, "JPEG")
    return encoded.getvalue()


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _gpu(device: Device) -> str:
    found = None if device.ordinal is None else gpu_at(device.ordinal)
    return "no GPU" if found is None else f"{found[0]}, compute capability {found[1]}"


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f}"


if __name__ == "__main__":
    sys.exit(main())
