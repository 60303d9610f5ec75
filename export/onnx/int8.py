"""Rewrites products with constant weights of a float32 graph in int8, in ONNX operators that ONNX Runtime fuses.

x [.., K] @ w [K, N]: x is rounded to 256 steps between its least and largest element (DynamicQuantizeLinear), w to
whole numbers of a scale for each of its N columns, and their product is exact in int32 (MatMulInteger). w [N, K] @ x
[.., K, M], as deformable convolutions have it, is turned to that form, in which the runtime packs the weights as it
loads: x is turned after its rounding, in a quarter of the bytes. All else stays float32, other convolutions too.

Weights have 7 bits. CPUs without VNNI add two products of x and w in int16, which 8 bits would saturate
(255 * 127 * 2 > 32767): with 7 every CPU computes the same whole numbers, at the same speed.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx.precision import KEPT

LARGEST = 63
# Rows and columns of a matrix below which rounding the other operand costs what the product saves.
MIN_SIDE = 32
# Elements of a constant up to which it may be the shape of a tensor.
LONGEST_SHAPE = 64
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """A product that can be rewritten: its node, the name of its weights [K, N], or [N, K] if `turned`, and its group.

    operand: name of what the weights are multiplied with; bias: name of a Gemm's third operand. dimensions: of the
    operand, where the weights are to the left of it.
    """

    node: str
    weights: str
    operand: str
    turned: bool
    bias: str | None
    group: str
    dimensions: int | None = None


class Int8Writer:
    """A float32 graph whose products can be rewritten in int8; `products` are these, by the name of their node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = _constants(model.graph)
        self._rounded: dict[tuple[str, bool], tuple[Array, Array]] = {}
        self.products: Mapping[str, Product] = {product.node: product for product in self._found()}

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of the products, in the order of the graph."""
        return tuple(dict.fromkeys(product.group for product in self.products.values()))

    def weights_of(self, group: str) -> int:
        """Number of weights in a group."""
        names = {product.weights for product in self.products.values() if product.group == group}
        return sum(math.prod(self._constants[name].shape) for name in names)

    def rewritten(self, groups: Collection[str]) -> onnx.ModelProto:
        """The graph with the products of these groups in int8."""
        nodes: list[NodeProto] = []
        added: dict[str, TensorProto] = {}
        rounded: set[str] = set()
        for node in self._model.graph.node:
            product = self.products.get(node.name)
            if product is None or product.group not in groups:
                nodes.append(node)
                continue
            if product.operand not in rounded:
                rounded.add(product.operand)
                nodes.append(_rounding(product.operand))
            added |= self._stored(product)
            nodes += _product(product, node)
        return self._assembled(nodes, added)

    def _found(self) -> Iterator[Product]:
        products = [node for node in self._model.graph.node if node.op_type in ("MatMul", "Gemm")]
        on_the_left = any(self._has_weights(node.input[0]) for node in products)
        dimensions = _dimensions(self._model) if on_the_left else {}
        for node in products:
            left, right = node.input[:2]
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
                continue
            group, bias = group_of(node.name), node.input[2] if len(node.input) > 2 else None
            if self._has_weights(right):
                yield Product(node.name, right, left, bool(attributes.get("transB")), bias, group)
            elif self._has_weights(left) and node.op_type == "MatMul" and right in dimensions:
                yield Product(node.name, left, right, True, None, group, dimensions[right])

    def _has_weights(self, name: str) -> bool:
        shape = self._constants[name].shape if name in self._constants else ()
        return len(shape) == 2 and min(shape) >= MIN_SIDE

    def _stored(self, product: Product) -> dict[str, TensorProto]:
        key = (product.weights, product.turned)
        if key not in self._rounded:
            weights = self._constants[product.weights].values()
            self._rounded[key] = whole_numbers(weights.T if product.turned else weights)
        whole, scale = self._rounded[key]
        return {
            name: numpy_helper.from_array(values, name)
            for name, values in (
                (f"{product.weights}.int8", whole),
                (f"{product.weights}.scale", scale),
                (f"{product.weights}.zero", np.zeros(len(scale), np.int8)),
            )
        }

    def _assembled(self, nodes: list[NodeProto], added: Mapping[str, TensorProto]) -> onnx.ModelProto:
        """A model of these nodes and the initializers that they read; what restored replaced weights is left out."""
        source = self._model.graph
        outputs = {value.name for value in source.output}
        while True:
            used = {name for node in nodes for name in node.input} | outputs
            kept = [node for node in nodes if used.intersection(node.output)]
            if len(kept) == len(nodes):
                break
            nodes = kept
        tensors = [tensor for tensor in source.initializer if tensor.name in used]
        graph = helper.make_graph(
            nodes, source.name, source.input, source.output, initializer=[*tensors, *added.values()]
        )
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def group_of(node: str) -> str:
    """Group of a product by the module that its node is named after, with the same modules of all layers and levels.

    Those that `export.onnx.precision.KEPT` names, which are the likeliest to break an answer, are groups of their own.
    """
    if kept := KEPT.search(node):
        return kept.group().lower()
    modules = [re.sub(r"[._]\d+$", "", module) for module in node.strip("/").split("/")[:-1]]
    return "/".join(modules[:3])


def whole_numbers(weights: Array) -> tuple[Array, Array]:
    """Weights [K, N] as int8 of -63..63 and the float32 scale [N] of each column."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.ascontiguousarray(np.rint(weights / scale)).astype(np.int8), scale


def _rounding(name: str) -> NodeProto:
    outputs = [f"{name}.uint8", f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DynamicQuantizeLinear", [name], outputs, name=f"{name}/DynamicQuantizeLinear")


def _product(product: Product, node: NodeProto) -> Iterator[NodeProto]:
    x, w, y = product.operand, product.weights, node.output[0]
    whole, result = f"{x}.uint8", y
    if product.dimensions is not None:
        turn = [*range(product.dimensions - 2), product.dimensions - 1, product.dimensions - 2]
        whole, result = f"{y}.turned", f"{y}.scaled"
        yield helper.make_node("Transpose", [f"{x}.uint8"], [whole], name=f"{node.name}/Turned", perm=turn)
    elif product.bias is not None:
        result = f"{y}.scaled"
    operands = [whole, f"{w}.int8", f"{x}.zero", f"{w}.zero"]
    yield helper.make_node("MatMulInteger", operands, [f"{y}.int32"], name=f"{node.name}/MatMulInteger")
    yield helper.make_node("Cast", [f"{y}.int32"], [f"{y}.whole"], name=f"{node.name}/Whole", to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{x}.scale", f"{w}.scale"], [f"{y}.scale"], name=f"{node.name}/Scales")
    yield helper.make_node("Mul", [f"{y}.whole", f"{y}.scale"], [result], name=f"{node.name}/Scaled")
    if product.dimensions is not None:
        yield helper.make_node("Transpose", [result], [y], name=f"{node.name}/Back", perm=turn)
    elif product.bias is not None:
        yield helper.make_node("Add", [result, product.bias], [y], name=f"{node.name}/Bias")


def _dimensions(model: onnx.ModelProto) -> dict[str, int]:
    """Number of dimensions of the tensors between nodes, as far as they can be inferred without the weights."""
    graph = model.graph
    short = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= LONGEST_SHAPE]
    weights = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if math.prod(tensor.dims) > LONGEST_SHAPE
    ]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *weights], graph.output, initializer=short)
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(bare, opset_imports=model.opset_import)).graph
    types = {value.name: value.type.tensor_type for value in (*inferred.value_info, *graph.input)}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}


@dataclass(frozen=True)
class _Constant:
    """A float32 constant: a tensor, whole numbers or half precision times `scale` where it is stored so.

    flat: all dimensions but the first are one.
    """

    tensor: TensorProto
    scale: TensorProto | None = None
    flat: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        first, *others = self.tensor.dims or (1,)
        return (first, math.prod(others)) if self.flat else tuple(self.tensor.dims)

    def values(self) -> Array:
        values = numpy_helper.to_array(self.tensor).astype(np.float32)
        values = values if self.scale is None else values * numpy_helper.to_array(self.scale)
        return values.reshape(self.shape)


def _constants(graph: onnx.GraphProto) -> dict[str, _Constant]:
    """Float constants by name, those included that `export.onnx.weight_storage` stores in fewer bits."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {name: _Constant(tensor) for name, tensor in tensors.items() if tensor.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in tensors and node.attribute[0].i == TensorProto.FLOAT:
            found[node.output[0]] = _Constant(tensors[node.input[0]])
        elif node.op_type == "Mul" and node.name.endswith("/Scale") and {*node.input} <= found.keys():
            found[node.output[0]] = _Constant(found[node.input[0]].tensor, tensors[node.input[1]])
        elif node.op_type == "Flatten" and node.input[0] in found and all(entry.i == 1 for entry in node.attribute):
            found[node.output[0]] = replace(found[node.input[0]], flat=True)
    return found
