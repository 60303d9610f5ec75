"""Full-size detectors beside eager PyTorch and the bound of their matrix products, as a Markdown table.

    python -m tests.benchmarks.eager grounding-dino|glip [--rounds 5] [--threads 2]

One picture of 800x1066 and four labels, synthetic weights of the published sizes. Grounding DINO Swin-T is set beside
transformers' own code, GLIP-T beside this project's PyTorch model, as its official code does not run here. Graphs are
traced in each lowering, the faster one is rewritten in int8, and the sessions that serve run them on a canvas of
800x1088. All take turns in one process; the median counts, of wall time, or of processor time on one thread, which
other work on the machine disturbs less. The bound is the time of all matrix products and convolutions of the graphs at
the rate of their largest product, measured between the rounds.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from onnx import helper, numpy_helper
from torch import Tensor

from export.graph_spec import GraphSpec
from export.onnx.int8 import Int8Writer
from export.onnx.tracing import to_onnx
from models.registry import FAMILIES, load
from server.contract.manifest import Lowering
from server.runtimes.ort import OrtSession
from tests.parity import containers, golden

INVENTORIES = {"grounding-dino": "groundingdino_SwinT_OGC", "glip": "glip_T"}
HEIGHT, WIDTH, CANVAS_WIDTH, TOKENS = 800, 1066, 1088, 10
LOWERINGS: tuple[Lowering, ...] = ("grid_sample", "deform_conv")
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "DeformConv")
FILTERED = ("Conv", "FusedConv", "DeformConv")
Arrays = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=INVENTORIES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        print("\n".join(table(args.family, args.rounds, args.threads, Path(scratch))))
    return 0


def table(family: str, rounds: int, threads: int, scratch: Path) -> list[str]:
    """Lines of the table."""
    checkpoint = scratch / "weights.pth"
    containers.write_data_parallel(checkpoint, golden.synthesise(INVENTORIES[family]))
    loaded = load(checkpoint)
    specs = FAMILIES[loaded.family].graphs(loaded)
    pixels = _inputs(specs, CANVAS_WIDTH)
    runs: dict[str, Callable[[], Any]] = {"eager": _eager(family, specs)}
    graphs: dict[str, dict[str, Path]] = {}
    for lowering in LOWERINGS:
        graphs[lowering] = {spec.name: scratch / f"{lowering}-{spec.name}.onnx" for spec in specs}
        for spec in specs:
            to_onnx(spec, graphs[lowering][spec.name], lowering=lowering)
        runs[lowering] = _served(graphs[lowering], pixels, threads)
    runs["int8"] = _served(_in_int8(graphs["deform_conv"]), pixels, threads)
    runs["largest product"], largest = _largest_product(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, call in runs.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    taken = {name: median(values[1:]) for name, values in seconds.items()}
    rate = largest / taken["largest product"]
    work = sum(operations(file, pixels, threads) for file in graphs["deform_conv"].values())
    bound = f"{work / 1e9:.0f} GFLOP in products, {work / rate:.2f} s at {rate / 1e9:.0f} GFLOP/s"
    return [
        f"{family}, {threads} threads; {bound}",
        "",
        "| | median, least, most | of eager | of the bound |",
        "| --- | --- | --- | --- |",
        *(_row(name, seconds[name][1:], taken["eager"], work / rate) for name in ("eager", *LOWERINGS, "int8")),
    ]


def _row(name: str, seconds: Sequence[float], eager: float, bound: float) -> str:
    taken = median(seconds)
    spread = f"{taken:.2f}, {min(seconds):.2f}, {max(seconds):.2f} s"
    return f"| {name} | {spread} | {eager / taken:.2f} times as fast | {bound / taken:.0%} |"


def _inputs(specs: Sequence[GraphSpec], width: int) -> Arrays:
    """Inputs of all three graphs but what they hand on, by name."""
    random = np.random.default_rng(0)
    groups = np.minimum(np.arange(TOKENS) // 3, 3)
    mask = np.zeros((1, HEIGHT, width), bool)
    mask[:, :, :WIDTH] = True
    pixels = random.normal(size=(1, 3, HEIGHT, width)).astype(np.float32) * mask[:, None]
    named = {
        "pixel_values": pixels,
        "pixel_mask": mask,
        "input_ids": (1000 + 7 * np.arange(TOKENS))[None],
        "position_ids": (np.arange(TOKENS) % 3)[None],
        "self_attention_mask": (groups[:, None] == groups)[None],
        "text_mask": np.ones((1, TOKENS), bool),
        "token_label": groups[None],
    }
    return {name: value for name, value in named.items() if any(name in spec.inputs for spec in specs)}


def _served(files: dict[str, Path], inputs: Arrays, threads: int) -> Callable[[], Any]:
    sessions = {part: OrtSession(file, threads=threads) for part, file in files.items()}

    def run() -> Any:
        tensors = dict(inputs)
        for session in sessions.values():
            tensors |= session.run(tensors)
        return tensors

    return run


def _in_int8(files: dict[str, Path]) -> dict[str, Path]:
    """The graphs of DeformConv with all products in int8: no certificate can hold for weights that answer nothing."""
    written = {part: file.with_name(f"int8-{part}.onnx") for part, file in files.items()}
    for part, file in files.items():
        writer = Int8Writer(onnx.load(str(file)))
        onnx.save(writer.rewritten(writer.groups), str(written[part]))
    return written


def _eager(family: str, specs: Sequence[GraphSpec]) -> Callable[[], Any]:
    inputs = {name: torch.from_numpy(value) for name, value in _inputs(specs, WIDTH).items()}
    if family == "grounding-dino":
        model = transformers.GroundingDinoForObjectDetection(_config()).eval()
        ids = torch.tensor([[101, 4937, 1012, 3899, 1012, 2417, 2482, 1012, 2711, 1012, 102]])
        shown = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        return lambda: model(inputs["pixel_values"], pixel_mask=inputs["pixel_mask"].long(), **shown)

    def run() -> Any:
        tensors: dict[str, Tensor] = dict(inputs)
        for spec in specs:
            found = spec.module(*spec.arguments(tensors))
            tensors |= dict(zip(spec.outputs, (found,) if isinstance(found, Tensor) else found, strict=True))
        return tensors

    return run


def _config() -> Any:
    """The published config of IDEA-Research/grounding-dino-tiny, where it is not the default."""
    backbone = {"window_size": 7, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    swin = transformers.AutoConfig.for_model("swin", image_size=224, out_indices=[2, 3, 4], **backbone)
    return transformers.GroundingDinoConfig(backbone_config=swin)


def _largest_product(threads: int) -> tuple[Callable[[], Any], int]:
    """A product [18071, 256] x [256, 2048], of the feature enhancer, and its number of operations."""
    rows, depth, columns = 18071, 256, 2048
    random = np.random.default_rng(0)
    weights = numpy_helper.from_array(random.normal(size=(depth, columns)).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = random.normal(size=(rows, depth)).astype(np.float32)
    return lambda: session.run(None, {"x": x}), 2 * rows * depth * columns


def operations(file: Path, inputs: Arrays, threads: int) -> int:
    """Operations of the matrix products and convolutions of a graph, from a profiled run of random features."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.intra_op_num_threads = True, threads
    options.profile_file_prefix = str(file.with_suffix(""))
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {}
    for entry in session.get_inputs():
        feeds[entry.name] = inputs.get(entry.name)
        if feeds[entry.name] is None:  # features that another part hands on
            sizes = [_size(axis) for axis in entry.shape]
            feeds[entry.name] = random.normal(size=sizes).astype(np.float32)
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return sum(_operations(event["args"]) for event in events if event.get("args", {}).get("op_name") in PRODUCTS)


def _size(axis: int | str) -> int:
    if isinstance(axis, int):
        return axis
    side, _, stride = axis.partition("_")
    return {"batch": 1, "tokens": TOKENS}.get(side) or math.ceil(
        (HEIGHT if side == "height" else CANVAS_WIDTH) / int(stride)
    )


def _operations(event: Arrays) -> int:
    """Multiplications and additions of a node, from its shapes in the profile, where packed weights have none."""
    read, *others = (next(iter(shape.values())) for shape in event["input_type_shape"])
    written = next(iter(event["output_type_shape"][0].values()))
    if event["op_name"] in FILTERED:
        return 2 * math.prod(written) * math.prod(others[0][1:])
    return 2 * math.prod(read) * written[-1]


if __name__ == "__main__":
    sys.exit(main())
