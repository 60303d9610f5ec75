"""Traces a graph to an ONNX file, with PyTorch's TorchScript tracer.

At PyTorch 2.13 the newer exporter (torch.export) takes minutes over the shape arithmetic of even a two-layer Grounding
DINO; the tracer takes half a minute over the full one.
"""

import logging
import warnings
from pathlib import Path

import onnx
import torch

from export import ExportError
from export.graph_spec import GraphSpec
from export.onnx.lowering import lowered
from export.onnx.weight_storage import WeightStorage, store_as_half
from server.contract.manifest import Lowering

# GridSample begins at opset 16, and that of opset 20 is wrong in TensorRT (NVIDIA/TensorRT issue 4646). At 17
# LayerNormalization is an operator of its own, which runs faster than its parts.
OPSETS = (16, 17, 18)
DEFAULT_OPSET = 17
DEFAULT_LOWERING: Lowering = "grid_sample"
# Limit of a protobuf; none of the published models reaches it.
MAX_BYTES = 2**31 - 2**20


def to_onnx(
    spec: GraphSpec,
    file: Path,
    *,
    opset: int = DEFAULT_OPSET,
    weights: WeightStorage = "fp32",
    lowering: Lowering = DEFAULT_LOWERING,
) -> Lowering | None:
    """Write the graph to `file`, checked: valid in this opset, its named axes all dynamic.

    Returns the lowering, or None where the graph does not sample.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}; accepted are {OPSETS}")
    size = sum(tensor.numel() * tensor.element_size() for tensor in spec.module.state_dict().values())
    if size > MAX_BYTES:
        raise ExportError(f"{spec.name} holds {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB")
    with lowered(lowering) as mode:
        _trace(spec, file, opset)
    model = onnx.load(str(file))
    _strip_source_paths(model)
    if weights == "fp16":
        store_as_half(model)
    onnx.checker.check_model(model)
    _check_axes(model, spec)
    onnx.save(model, str(file))
    return lowering if mode.met else None


def _trace(spec: GraphSpec, file: Path, opset: int) -> None:
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
