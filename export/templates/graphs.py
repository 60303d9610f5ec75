"""Traces a part to a graph without weights: each initializer is a float tensor of the model, in a flat file to come.

Constants stay unfolded in the trace, so that initializers keep their names. What remains to fold is then done once:
transposition of a matrix, which is most of the bytes, is written into the table. The rest (affine parameters given an
axis, gathered position biases) ONNX Runtime folds as it loads the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto
from torch import Tensor, nn

from export import ExportError
from export.graph_spec import GraphSpec
from export.onnx.tracing import to_onnx
from export.templates.template import Initializer, offsets_of
from server.contract.manifest import Lowering

# Constants that a graph may hold itself; a larger one would be a weight that lost its name.
MAX_CONSTANT_BYTES = 2**20
TURNED = ".transposed"


@dataclass(frozen=True)
class TracedPart:
    """A graph whose initializers are external data in `data_file`, in this order.

    constants: keys of the whole numbers that the graph holds itself.
    """

    graph: bytes
    initializers: tuple[Initializer, ...]
    constants: frozenset[str]
    data_file: str
    lowering: Lowering | None


def trace_part(spec: GraphSpec, model: nn.Module, scratch: Path) -> TracedPart:
    """Trace the module of `spec`, a part of `model`, whose float tensors must all differ."""
    keys = _keys(spec, model)
    file = scratch / f"{spec.name}.onnx"
    lowering = to_onnx(spec, file, fold_constants=False)
    graph = onnx.load(str(file))
    file.unlink()
    data_file = f"{spec.name}.weights"
    initializers, constants = _externalise(graph, keys, data_file)
    return TracedPart(graph.SerializeToString(deterministic=True), initializers, constants, data_file, lowering)


def _keys(spec: GraphSpec, model: nn.Module) -> dict[str, str]:
    """Key in the model's state dict of each name in that of the part's module."""
    own = {id(tensor): key for key, tensor in model.state_dict(keep_vars=True).items()}
    return {
        name: own[id(tensor)] for name, tensor in spec.module.state_dict(keep_vars=True).items() if id(tensor) in own
    }


def _externalise(
    graph: onnx.ModelProto, keys: Mapping[str, str], data_file: str
) -> tuple[tuple[Initializer, ...], frozenset[str]]:
    """Turn the float initializers into external data, transposed where the graph did so."""
    weights = {}
    constants = set()
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in keys:
            weights[tensor.name] = tensor
        elif len(tensor.raw_data) > MAX_CONSTANT_BYTES or tensor.data_type == TensorProto.FLOAT:
            raise ExportError(f"{tensor.name} {list(tensor.dims)} of the graph is no tensor of the model")
        elif tensor.name in keys:
            constants.add(keys[tensor.name])
    named = frozenset(weights)
    turned = _fold_transpositions(graph.graph, weights)
    stored = [*weights.values(), *turned]
    initializers = tuple(
        Initializer(
            key=keys[tensor.name.removesuffix(TURNED)],
            shape=tuple(tensor.dims),
            transposed=tensor.name.endswith(TURNED),
        )
        for tensor in stored
    )
    for tensor, initializer, offset in zip(stored, initializers, offsets_of(initializers), strict=True):
        _refer(tensor, data_file, offset, initializer.nbytes)
    kept = [tensor for tensor in graph.graph.initializer if tensor.name not in named]
    used = {name for node in graph.graph.node for name in node.input}
    del graph.graph.initializer[:]
    graph.graph.initializer.extend([*kept, *stored])
    if unused := [tensor.name for tensor in stored if tensor.name not in used]:
        raise ExportError(f"the graph does not use its initializers {', '.join(unused)}")
    return initializers, frozenset(constants)


def _fold_transpositions(graph: onnx.GraphProto, weights: dict[str, TensorProto]) -> list[TensorProto]:
    """Remove the nodes that transpose a weight; returns turned weights, and drops from `weights` those used no more."""
    renamed: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        matrix = weights.get(node.input[0]) if node.op_type == "Transpose" else None
        if matrix is not None and list(node.attribute[0].ints) == [1, 0]:
            renamed[node.output[0]] = matrix.name + TURNED
        else:
            kept.append(node)
    turned: dict[str, TensorProto] = {}
    for node in kept:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
                matrix = weights[renamed[name].removesuffix(TURNED)]
                turned.setdefault(
                    renamed[name], TensorProto(name=renamed[name], data_type=TensorProto.FLOAT, dims=matrix.dims[::-1])
                )
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    for name in [name for name in weights if name not in used]:
        del weights[name]
    return list(turned.values())


def _refer(tensor: TensorProto, file: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def check_all_differ(model: nn.Module) -> None:
    """ExportError where two float tensors of the model are equal: the tracer would merge their initializers."""
    seen: dict[tuple[object, ...], str] = {}
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        print_of = (tuple(tensor.shape), *_sample(tensor))
        if print_of in seen:
            raise ExportError(f"{key} and {seen[print_of]} are equal: a template is traced with tensors that differ")
        seen[print_of] = key


def _sample(tensor: Tensor) -> tuple[float, ...]:
    flat = tensor.detach().reshape(-1)
    return tuple(float(value) for value in flat[:: max(1, len(flat) // 16)])
