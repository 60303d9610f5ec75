"""Stores weights at half precision: half the file, computed with at full precision.

The model's weights are rounded first, so that PyTorch's reference outputs and the graph have the same ones; then every
initializer that float16 holds exactly is stored so, followed by a Cast that a runtime folds as it loads.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.graph_spec import GraphSpec

WeightStorage = Literal["fp32", "fp16"]
MIN_ELEMENTS = 256  # below, a Cast costs as much as it saves
SUFFIX = "_fp16"


def round_to_half(specs: Sequence[GraphSpec]) -> None:
    """Round the weights of the graphs' modules in place; ValueError names one that float16 cannot hold.

    The tracer folds a BatchNorm into the convolution before it, and folded weights would no longer be rounded: so it is
    folded here first, which leaves the tracer an identity.
    """
    for spec in specs:
        for convolution, norm in _normed_convolutions(spec):
            _fold(convolution, norm)
    for spec in specs:
        for name, parameter in spec.module.named_parameters():
            rounded = parameter.detach().half().float()
            if not rounded.isfinite().all():
                raise ValueError(
                    f"{name} reaches {float(parameter.detach().abs().max()):g}: half precision cannot hold it"
                )
            parameter.data.copy_(rounded)


def store_as_half(model: onnx.ModelProto) -> None:
    """Store at half precision the large initializers of `model` that float16 holds exactly."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_ELEMENTS:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, name + SUFFIX))
        casts.append(helper.make_node("Cast", [name + SUFFIX], [name], name=f"{name}/Cast", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


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
