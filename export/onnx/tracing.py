"""Traces a graph to an ONNX file, with PyTorch's TorchScript tracer; lowers bilinear sampling as chosen.

At PyTorch 2.13 the newer exporter (torch.export) takes minutes over the shape arithmetic of even a two-layer Grounding
DINO; the tracer takes half a minute over the full one.

Sampling at every position of a map becomes DeformConv, which is fastest, elsewhere GridSample. TensorRT has miscompiled
deformable attention built from GridSample (NVIDIA/TensorRT issues 4646 and 4813), so sampling can be traced as gathers
instead. All are the same function within float32 rounding, and the models know of none of them.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from export import ExportError
from export.graph_spec import GraphSpec
from export.onnx.deform_conv import FIRST_OPSET, OPERATOR, deform_convs
from export.onnx.weight_storage import WeightStorage, store_weights
from server.contract.manifest import LOWERINGS, Lowering

# GridSample begins at opset 16, and that of opset 20 is wrong in TensorRT (NVIDIA/TensorRT issue 4646). At 17
# LayerNormalization is an operator of its own, which runs faster than its parts.
OPSETS = (16, 17, 18, 19)
DEFAULT_OPSET = 19
DEFAULT_LOWERING: Lowering = "deform_conv"
# Limit of a protobuf; none of the published models reaches it.
MAX_BYTES = 2**31 - 2**20


def to_onnx(
    spec: GraphSpec,
    file: Path,
    *,
    opset: int = DEFAULT_OPSET,
    weights: WeightStorage = "fp32",
    lowering: Lowering = DEFAULT_LOWERING,
    fold_constants: bool = True,
) -> Lowering | None:
    """Write the graph to `file`, checked: valid in this opset, its named axes all dynamic.

    fold_constants: else every initializer is a parameter or buffer of the module, under its name. Returns the lowering,
    or None where the graph does not sample.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}; accepted are {OPSETS}")
    if lowering == "deform_conv" and opset < FIRST_OPSET:
        raise ExportError(f"opset is {opset}; lowering deform_conv needs {FIRST_OPSET}, grid_sample and gather do not")
    size = sum(tensor.numel() * tensor.element_size() for tensor in spec.module.state_dict().values())
    if size > MAX_BYTES:
        raise ExportError(f"{spec.name} holds {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB")
    with lowered(lowering) as mode:
        _trace(spec, file, opset, fold_constants)
    model = onnx.load(str(file))
    _strip_source_paths(model)
    store_weights(model, weights)
    onnx.checker.check_model(model)
    _check_axes(model, spec)
    onnx.save(model, str(file))
    return lowering if mode.met or any(node.op_type == OPERATOR for node in model.graph.node) else None


def _trace(spec: GraphSpec, file: Path, opset: int, fold_constants: bool) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of every size read as a number; the certificate shows if one was fixed by that.
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                spec.module,
                tuple(spec.inputs.values()),
                str(file),
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                dynamic_axes={name: dict(axes) for name, axes in spec.axes.items()},
                opset_version=opset,
                dynamo=False,
                do_constant_folding=fold_constants,
            )
        finally:
            logger.setLevel(level)


def _strip_source_paths(model: onnx.ModelProto) -> None:
    """Remove the source files and paths that the tracer records."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _check_axes(model: onnx.ModelProto, spec: GraphSpec) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        for axis, label in spec.axes[value.name].items():
            if not value.type.tensor_type.shape.dim[axis].dim_param:
                raise ExportError(f"the graph of {spec.name} has fixed the {label} of {value.name}")


class Lowered(TorchFunctionMode):
    """While active, traces every `F.grid_sample` by `lowering`; `met` becomes True at the first one."""

    def __init__(self, lowering: Lowering) -> None:
        super().__init__()
        self.lowering, self.met = lowering, False

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.grid_sample:
            self.met = True
            func = gather_sample if self.lowering == "gather" else func
        return func(*args, **(kwargs or {}))


@contextmanager
def lowered(lowering: Lowering) -> Iterator[Lowered]:
    """Trace with one lowering; ValueError for an unknown one."""
    if lowering not in LOWERINGS:
        raise ValueError(f"lowering is {lowering!r}; accepted are {LOWERINGS}")
    with deform_convs() if lowering == "deform_conv" else nullcontext(), Lowered(lowering) as mode:
        yield mode


def gather_sample(
    maps: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """`F.grid_sample` of maps [N, C, H, W] at grid [N, P, Q, 2] (x, y in -1..1), bilinear and zero outside.

    Each corner is a gather of rows of C channels, from maps with a border of zeros. Returns [N, C, P, Q].
    """
    if (mode, padding_mode, bool(align_corners)) != ("bilinear", "zeros", False) or maps.dim() != 4:
        raise ValueError(
            f"grid_sample of {maps.dim() - 2} dimensions with mode={mode!r}, padding_mode={padding_mode!r},"
            f" align_corners={align_corners!r} has no lowering to gathers; 2, bilinear, zeros and False have one"
        )
    count, channels, height, width = maps.shape
    rows = F.pad(maps, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, channels)  # [N * (H + 2) * (W + 2), C]
    first = torch.arange(count, device=maps.device)[:, None, None] * ((height + 2) * (width + 2))  # [N, 1, 1]
    columns, column_weights = _neighbours(grid[..., 0], width)
    lines, line_weights = _neighbours(grid[..., 1], height)
    corners = []
    for line, line_weight in zip(lines, line_weights, strict=True):
        start = first + line * (width + 2)
        for column, column_weight in zip(columns, column_weights, strict=True):
            values = rows.index_select(0, (start + column).reshape(-1))  # [N * P * Q, C]
            corners.append(values * (line_weight * column_weight).reshape(-1, 1))
    total = (corners[0] + corners[1]) + (corners[2] + corners[3])
    return total.reshape(count, grid.shape[1], grid.shape[2], channels).permute(0, 3, 1, 2)


def _neighbours(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cells before and after each position (-1..1), counted in the bordered map, and the weight of each.

    Clamped as float: a position far outside, which falls on the border, need not fit an integer.
    """
    cell = ((position + 1) * size - 1) / 2
    before = cell.floor()
    share = cell - before
    cells = [(edge.clamp(-1, size) + 1).long() for edge in (before, before + 1)]
    return (cells[0], cells[1]), (1 - share, share)
