"""Stores weights in fewer bits: half the file or a quarter, computed with at full precision.

The model's weights are rounded first, so that PyTorch's reference outputs and the graph have the same ones; then every
initializer that the smaller type holds exactly is stored so, followed by nodes that a runtime folds as it loads. "int8"
stores matrices and filters as integers with a scale for each output channel, the rest as "fp16" does.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.graph_spec import GraphSpec

WeightStorage = Literal["fp32", "fp16", "int8"]
Float32 = npt.NDArray[np.float32]
MIN_ELEMENTS = 256  # below, a node costs as much as it saves
MIN_CHANNEL = 32  # elements of a channel from which one scale for all of them is worth it
LARGEST = 127
SCALE_BITS = 12  # of a scale's mantissa are zero, so that its products with integers are exact


def round_weights(specs: Sequence[GraphSpec], storage: WeightStorage) -> None:
    """Round the weights of the graphs' modules in place; ValueError names one that float16 cannot hold.

    The tracer folds a BatchNorm into the convolution before it, and folded weights would no longer be rounded: so it is
    folded here first, which leaves the tracer an identity.
    """
    if storage == "fp32":
        return
    for spec in specs:
        for convolution, norm in _normed_convolutions(spec):
            _fold(convolution, norm)
    for spec in specs:
        for name, parameter in spec.module.named_parameters():
            values = parameter.detach().numpy()
            if storage == "int8" and _has_channels(values):
                whole, scale = _integers(values)
                parameter.data.copy_(torch.from_numpy(whole * scale))
                continue
            rounded = parameter.detach().half().float()
            if not rounded.isfinite().all():
                raise ValueError(
                    f"{name} reaches {float(parameter.detach().abs().max()):g}: half precision cannot hold it"
                )
            parameter.data.copy_(rounded)


def store_weights(model: onnx.ModelProto, storage: WeightStorage) -> None:
    """Store the large initializers of `model` in the smallest type of the storage that holds them exactly."""
    if storage == "fp32":
        return
    nodes: list[NodeProto] = []
    scales: list[TensorProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_ELEMENTS:
            continue
        values = numpy_helper.to_array(tensor)
        if not (storage == "int8" and _store_integers(tensor, values, nodes, scales)):
            _store_half(tensor, values, nodes)
    model.graph.initializer.extend(scales)
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _store_half(tensor: TensorProto, values: Float32, nodes: list[NodeProto]) -> None:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values):
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        nodes.append(_cast(f"{name}_fp16", name))


def _store_integers(tensor: TensorProto, values: Float32, nodes: list[NodeProto], scales: list[TensorProto]) -> bool:
    """Store values as integers if there are channels, along the first axis or the last, of which this is exact."""
    if not _has_channels(values):
        return False
    for axis in (0, values.ndim - 1):
        moved = np.moveaxis(values, axis, 0)
        whole, scale = _integers(moved)
        if np.array_equal(whole * scale, moved):
            name = tensor.name
            stored = np.ascontiguousarray(np.moveaxis(whole, 0, axis)).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}_int8"))
            scales.append(numpy_helper.from_array(np.moveaxis(scale, 0, axis).copy(), f"{name}_scale"))
            nodes.append(_cast(f"{name}_int8", f"{name}_whole"))
            nodes.append(helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name], name=f"{name}/Scale"))
            return True
    return False


def _cast(stored: str, name: str) -> NodeProto:
    return helper.make_node("Cast", [stored], [name], name=f"{name}/Cast", to=TensorProto.FLOAT)


def _has_channels(values: Float32) -> bool:
    return values.ndim > 1 and min(values.size // values.shape[0], values.size // values.shape[-1]) >= MIN_CHANNEL


def _integers(values: Float32) -> tuple[Float32, Float32]:
    """Round values [C, ...] to whole numbers of -127..127 of a scale [C, 1, ...] that is exact to find again."""
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    bits = (largest / LARGEST).astype(np.float32).view(np.uint32)
    short = (bits + (1 << SCALE_BITS - 1)) >> SCALE_BITS << SCALE_BITS
    scale = short.view(np.float32)
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.rint(values / safe).clip(-LARGEST, LARGEST).astype(np.float32), scale


def _normed_convolutions(spec: GraphSpec) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the BatchNorm that reads its output, recorded by hooks during a run."""
    made_by: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    outputs: list[Tensor] = []  # kept alive, so that no two share an id

    def made(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = module
        outputs.append(output)

    def read(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module))

    modules = list(spec.module.modules())
    hooks = [module.register_forward_hook(made) for module in modules if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(read) for module in modules if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        spec.module(*spec.inputs.values())
    for hook in hooks:
        hook.remove()
    return pairs


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Move the norm's scale into the convolution's weight and its mean into its own bias."""
    assert convolution.bias is None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    convolution.weight.mul_(scale[:, None, None, None])
    norm.bias.sub_(norm.running_mean * scale)
    norm.weight.fill_(1.0)
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - norm.eps)
