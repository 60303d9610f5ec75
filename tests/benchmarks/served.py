"""What a request costs beside its model: overhead of one image, the first requests, the start, 16 clients.

    python -m tests.benchmarks.served [--only overhead,first,start,clients] [--rounds 20] [--beside CHECKOUT]

One client on a kept connection sends a form with a JPEG and two labels. `--beside` measures the server of another
checkout of this repository too, in turns with this one, so that other work on the machine slows down both. The bare
engine is the bundle's sessions in this process, at each size of batch up to the bundle's own, while no server works.
"""

import argparse
import contextlib
import http.client
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from server.bundle import Bundle
from server.registry.model_cache import BUNDLED
from tests.benchmarks.live_server import ROOT, LiveServer, serving
from tests.benchmarks.traffic import FORM, form

MODELS = {"clip-mini": "/classify", "grounding-dino-mini": "/detect"}
SIZES = ((640, 480), (4000, 3000))
CLIENTS = 16
FLAGS = ("--log-level", "warning")
STAGES = ("decode", "preprocess", "infer", "postprocess")
Servers = dict[str, LiveServer]


@dataclass(frozen=True)
class Exchange:
    """Milliseconds of one request as its client sees them, and of each stage."""

    wall: float
    stages: dict[str, float]

    @property
    def overhead(self) -> float:
        return self.wall - self.stages["infer"]

    @property
    def beyond_decode(self) -> float:
        return self.overhead - self.stages["decode"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="overhead,first,start,clients", metavar="A,B")
    parser.add_argument("--rounds", type=int, default=20, help="requests of each kind, a quarter as many starts")
    parser.add_argument("--seconds", type=float, default=8, help="of each round of 16 clients")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    args = parser.parse_args(argv)
    roots = {"this": ROOT} | ({"beside": args.beside.resolve()} if args.beside else {})
    wanted, starts = args.only.split(","), max(1, args.rounds // 4)
    if "start" in wanted or "first" in wanted:
        print("\n".join(start_table(roots, starts)), flush=True)
    if "overhead" in wanted or "clients" in wanted:
        with all_serving(roots) as servers:
            if "overhead" in wanted:
                print("\n".join(overhead_table(servers, args.rounds)), flush=True)
            if "clients" in wanted:
                print("\n".join(clients_table(servers, rounds=max(1, args.rounds // 5), seconds=args.seconds)))
    return 0


def overhead_table(servers: Servers, rounds: int) -> Iterator[str]:
    """A row for each model, picture and server: medians in milliseconds."""
    yield "\n| model | picture | server | wall | decode | preprocess | infer | beside infer | beside infer and decode |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for model in MODELS:
        for size in SIZES:
            asks = {name: asking(server, model, jpeg(size)) for name, server in servers.items()}
            taken: dict[str, list[Exchange]] = {name: [] for name in asks}
            for _ in range(rounds + 3):
                for name, ask in asks.items():
                    taken[name].append(ask())
            for name, exchanges in taken.items():
                warm = exchanges[3:]
                stages = (_median(each.stages[stage] for each in warm) for stage in STAGES[:3])
                sums = _median(each.overhead for each in warm), _median(each.beyond_decode for each in warm)
                yield _row(model, "x".join(map(str, size)), name, _median(each.wall for each in warm), *stages, *sums)


def start_table(roots: dict[str, Path], starts: int) -> Iterator[str]:
    """Start until ready, and the first, second and tenth request of either task."""
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in roots}
    for _ in range(starts):
        for name, root in roots.items():
            with tempfile.TemporaryDirectory() as folder:
                begun = time.monotonic()
                with serving(Path(folder), *FLAGS, root=root) as server:
                    ready, processor = time.monotonic() - begun, server.cpu_seconds()
                    walls = [_first_tenth(server, model) for model in MODELS]
                taken[name].append((ready, processor, *(value for wall in walls for value in wall)))
    heads = [f"{path[1:]}: {what}" for path in MODELS.values() for what in ("first", "its postprocess", "tenth, ms")]
    yield f"\n| server | ready after, s | processor s | {' | '.join(heads)} |"
    yield "| --- " * (3 + len(heads)) + "|"
    for name, rows in taken.items():
        yield _row(name, *(_median(column) for column in zip(*rows, strict=True)))


def _first_tenth(server: LiveServer, model: str) -> tuple[float, float, float]:
    ask = asking(server, model, jpeg(SIZES[0]))
    exchanges = [ask() for _ in range(10)]
    return exchanges[0].wall, exchanges[0].stages["postprocess"], exchanges[-1].wall


def clients_table(servers: Servers, *, rounds: int, seconds: float) -> Iterator[str]:
    """Images a second of 16 clients beside the bare engine's, and the processor time of an image of either."""
    yield f"\n| model | server | engine, img/s (batch) | {CLIENTS} clients, img/s | share | processor ms an image |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for model in MODELS:
        bare, figures = engine(model), {name: list[tuple[float, float]]() for name in servers}
        paces: dict[int, list[tuple[float, float]]] = {batch: [] for batch in bare}
        for _ in range(rounds):
            for batch, run in bare.items():
                paces[batch].append(_pace(run, batch, seconds / len(bare)))
            for name, server in servers.items():
                figures[name].append(crowd(server, model, seconds))
        best = max(paces, key=lambda batch: statistics.median(pace for pace, _ in paces[batch]))
        pace, processor = (_median(column) for column in zip(*paces[best], strict=True))
        for name, rows in figures.items():
            images, taken = (_median(column) for column in zip(*rows, strict=True))
            cost = f"{processor:.1f}, {taken:.1f}"
            yield f"| {model} | {name} | {pace:.1f} ({best}) | {images:.1f} | {images / pace:.2f} | {cost} |"


def engine(model: str) -> dict[int, Callable[[], object]]:
    """A run of the model's own sessions for each size of batch, on all processors."""
    bundle = Bundle(BUNDLED / model)
    pixels = bundle.preprocess(Image.open(io.BytesIO(jpeg(SIZES[0]))))
    sizes = sorted({1, 2, 3, 8} & set(range(1, bundle.manifest.buckets.max_batch + 1)))
    if "detect" not in bundle.tasks:
        return {size: partial(bundle.embed_images, [pixels] * size) for size in sizes}
    prompt = bundle.prompts.from_labels(["dog", "cat"])
    features = bundle.encode_prompts([prompt])

    def detect(size: int) -> object:
        return bundle.run_detector([pixels] * size, [prompt] * size, features * size)

    return {size: partial(detect, size) for size in sizes}


def _pace(run: Callable[[], object], batch: int, seconds: float) -> tuple[float, float]:
    """Images a second, and processor milliseconds of one."""
    run()
    begun, processor, images = time.monotonic(), time.process_time(), 0
    while time.monotonic() < begun + seconds:
        run()
        images += batch
    return images / (time.monotonic() - begun), 1000 * (time.process_time() - processor) / images


def crowd(server: LiveServer, model: str, seconds: float) -> tuple[float, float]:
    """Images a second that 16 clients are answered, and processor milliseconds of the server for one."""
    over, answered, data = threading.Event(), [0] * CLIENTS, jpeg(SIZES[0])

    def client(number: int) -> None:
        ask = asking(server, model, data, labels=("dog", "cat"))
        while not over.is_set():
            ask()
            answered[number] += 1

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    begun, processor, before = time.monotonic(), server.cpu_seconds(), sum(answered)
    time.sleep(seconds)
    taken, images = time.monotonic() - begun, sum(answered) - before
    cost = 1000 * (server.cpu_seconds() - processor) / max(1, images)
    over.set()
    for thread in threads:
        thread.join()
    return images / taken, cost


def asking(
    server: LiveServer, model: str, data: bytes, *, labels: Sequence[str] = ("dog", "cat")
) -> Callable[[], Exchange]:
    """A function that sends the picture over one kept connection; an answer but 200 is a RuntimeError."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = form([("image", data), ("model", model), *(("labels", label) for label in labels)])

    def ask() -> Exchange:
        begun = time.perf_counter()
        connection.request("POST", MODELS[model], body, {"Content-Type": FORM})
        answer = connection.getresponse()
        content = answer.read()
        wall = 1000 * (time.perf_counter() - begun)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content.decode()}")
        return Exchange(wall, json.loads(content)["timings_ms"])

    return ask


def jpeg(size: tuple[int, int]) -> bytes:
    """The example scene of this (width, height), with a camera's noise."""
    with Image.open(ROOT / "server/examples/scene.jpg") as scene:
        pixels = np.asarray(scene.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.int16)
    noise = np.random.default_rng(0).integers(-4, 5, pixels.shape, np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextlib.contextmanager
def all_serving(roots: dict[str, Path]) -> Iterator[Servers]:
    """A server of each checkout."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, root in roots.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers[name] = stack.enter_context(serving(folder, *FLAGS, root=root))
        yield servers


def _median(values: "Iterator[float] | Sequence[float]") -> float:
    return statistics.median(values)


def _row(*cells: str | float) -> str:
    return "| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
