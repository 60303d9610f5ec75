"""Traces a part to an ONNX file.

With PyTorch's TorchScript tracer: at 2.13 the newer exporter (torch.export) takes minutes over the shape arithmetic of
even a two-layer Grounding DINO, the tracer half a minute over the full one.
"""

import logging
import warnings
from pathlib import Path

import onnx
import torch

from export.errors import ExportError
from export.graph_spec import Part
from export.onnx.lowering import lowered
from export.onnx.weight_storage import WeightStorage, store_as_half
from server.contract.manifest import Lowering

# GridSample begins at 16, and that of opset 20 is wrong in TensorRT (NVIDIA/TensorRT issue 4646). At 17
# LayerNormalization is an operator of its own, which runs faster than its pieces.
OPSETS = (16, 17, 18)
DEFAULT_OPSET = 17
DEFAULT_LOWERING: Lowering = "grid_sample"
# A protobuf holds no more, and none of the published models needs it.
MAX_BYTES = 2**31 - 2**20


def to_onnx(
    part: Part,
    file: Path,
    *,
    opset: int = DEFAULT_OPSET,
    weights: WeightStorage = "fp32",
    lowering: Lowering = DEFAULT_LOWERING,
) -> Lowering | None:
    """Write `part` to `file`, checked: a valid graph of this opset whose named axes are all open.

    Returns the lowering, or None where the part does not sample.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}; accepted are {OPSETS}")
    size = sum(tensor.numel() * tensor.element_size() for tensor in part.module.state_dict().values())
    if size > MAX_BYTES:
        raise ExportError(f"{part.name} holds {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB")
    with lowered(lowering) as mode:
        _trace(part, file, opset)
    model = onnx.load(str(file))
    _forget_this_machine(model)
    if weights == "fp16":
        store_as_half(model)
    onnx.checker.check_model(model)
    _check_axes(model, part)
    onnx.save(model, str(file))
    return lowering if mode.met else None


def _trace(part: Part, file: Path, opset: int) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        # It warns of every size taken as a number; the certificate shows whether one was fixed by that.
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                part.module,
                tuple(part.inputs.values()),
                str(file),
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                dynamic_axes={name: dict(axes) for name, axes in part.axes.items()},
                opset_version=opset,
                dynamo=False,
            )
        finally:
            logger.setLevel(level)


def _forget_this_machine(model: onnx.ModelProto) -> None:
    """Drop what the tracer notes of source files and paths."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _check_axes(model: onnx.ModelProto, part: Part) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        for axis, label in part.axes[value.name].items():
            if not value.type.tensor_type.shape.dim[axis].dim_param:
                raise ExportError(f"the graph of {part.name} has fixed the {label} of {value.name}")
