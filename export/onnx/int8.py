"""Rewrites products with constant weights of a float32 graph in int8, in ONNX operators that ONNX Runtime fuses.

x [.., K] @ w [K, N]: x is rounded to 256 steps between its least and largest element (DynamicQuantizeLinear), w to
whole numbers of a scale for each of its N columns, and their product is exact in int32 (MatMulInteger). A deformable
convolution is that product too, with the columns that it samples, which one with a filter for each tap of each channel
hands over. All else stays float32, other convolutions too.

Weights have 7 bits. CPUs without VNNI add two products of x and w in int16, which 8 bits would saturate
(255 * 127 * 2 > 32767): with 7 every CPU computes the same whole numbers, at the same speed.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx.precision import KEPT

LARGEST = 63
# Rows and columns of a matrix below which rounding the other operand costs what the product saves.
MIN_SIDE = 32
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """A product that can be rewritten: names of its output and its weights [K, N], or [N, K] if `turned`; its group.

    x: name of its other operand; bias: name of a third, which is added. filters: shape [N, C, height, width] of the
    weights of a deformable convolution, whose `x` are columns [B, K, h, w], to be turned to [B, h, w, K] once rounded.
    """

    output: str
    weights: str
    x: str
    turned: bool
    bias: str | None
    group: str
    filters: tuple[int, ...] | None = None

    @property
    def rounded(self) -> str:
        """Name of its weights in int8, beside those of another product that has them the other way round."""
        return f"{self.weights}.turned.int8" if self.turned else f"{self.weights}.int8"


class Int8Writer:
    """A float32 graph whose products can be rewritten in int8; `products` are these, by the name of their output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = _constants(model.graph)
        self._rounded: dict[str, tuple[Array, Array]] = {}
        self.products: Mapping[str, Product] = {product.output: product for product in self._found()}

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
            product = self.products.get(node.output[0])
            if product is None or product.group not in groups:
                nodes.append(node)
                continue
            added |= self._stored(product)
            if product.filters is not None:
                taps = _taps(product.filters)
                added[taps.name] = taps
                nodes.append(_sampled_columns(product, node, taps.name))
            if product.x not in rounded:
                rounded.add(product.x)
                nodes.append(_rounding(product.x))
            nodes += _product(product, node)
        return self._assembled(nodes, added)

    def _found(self) -> Iterator[Product]:
        for node in self._model.graph.node:
            if node.op_type not in ("MatMul", "Gemm", "DeformConv") or node.input[1] not in self._constants:
                continue
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            if any(attributes.get(name, 1) != 1 for name in ("alpha", "beta", "group")) or attributes.get("transA"):
                continue
            x, weights, group = node.input[0], node.input[1], group_of(node.name)
            shape = self._constants[weights].shape
            if len(shape) < 2 or min(shape[0], math.prod(shape[1:])) < MIN_SIDE:
                continue
            if node.op_type == "DeformConv":
                bias = node.input[3] if len(node.input) > 3 and node.input[3] else None
                yield Product(node.output[0], weights, f"{node.output[0]}.columns", True, bias, group, shape)
            elif len(shape) == 2:
                bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
                yield Product(node.output[0], weights, x, bool(attributes.get("transB")), bias, group)

    def _stored(self, product: Product) -> dict[str, TensorProto]:
        name = product.rounded
        if name not in self._rounded:
            weights = self._constants[product.weights].values()
            weights = weights.reshape(len(weights), -1)
            self._rounded[name] = whole_numbers(weights.T if product.turned else weights)
        whole, scale = self._rounded[name]
        arrays = {name: whole, f"{name}.scale": scale, f"{name}.zero": np.zeros(len(scale), np.int8)}
        return {name: numpy_helper.from_array(values, name) for name, values in arrays.items()}

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
    """Weights [K, N] as int8 of -63..63 and the float32 scale [N] of each column, NaN for one that holds NaN."""
    least = np.finfo(np.float32).tiny  # smaller scales have few bits, or are zero
    scale = np.maximum(np.abs(weights).max(axis=0) / LARGEST, least).astype(np.float32)
    with np.errstate(invalid="ignore"):  # NaN is any whole number, times NaN
        return np.ascontiguousarray(np.rint(weights / scale)).astype(np.int8), scale


def _rounding(name: str) -> NodeProto:
    outputs = [f"{name}.uint8", f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DynamicQuantizeLinear", [name], outputs, name=f"{name}/DynamicQuantizeLinear")


def _sampled_columns(product: Product, node: NodeProto, taps: str) -> NodeProto:
    """The deformable convolution with a filter for each tap of each channel, in the order of the weights' elements."""
    assert product.filters is not None
    inputs = [node.input[0], taps, node.input[2], "", *node.input[4:]]
    columns = helper.make_node("DeformConv", inputs, [product.x], name=f"{node.name}/Columns", group=product.filters[1])
    columns.attribute.extend(entry for entry in node.attribute if entry.name != "group")
    return columns


def _taps(filters: tuple[int, ...]) -> TensorProto:
    """Filters [C * height * width, 1, height, width], each of which is one at its own tap."""
    _, channels, height, width = filters
    taps = np.tile(np.eye(height * width, dtype=np.float32), (channels, 1))
    return numpy_helper.from_array(taps.reshape(-1, 1, height, width), f"taps.{channels}x{height}x{width}")


def _product(product: Product, node: NodeProto) -> Iterator[NodeProto]:
    x, w, y = product.x, product.rounded, product.output
    whole, result = f"{x}.uint8", y
    if product.filters is not None:
        whole, result = f"{x}.turned", f"{y}.turned"
        yield helper.make_node("Transpose", [f"{x}.uint8"], [whole], name=f"{node.name}/Turned", perm=[0, 2, 3, 1])
    scaled = result if product.bias is None else f"{y}.scaled"
    operands = [whole, w, f"{x}.zero", f"{w}.zero"]
    yield helper.make_node("MatMulInteger", operands, [f"{y}.int32"], name=f"{node.name}/MatMulInteger")
    yield helper.make_node("Cast", [f"{y}.int32"], [f"{y}.whole"], name=f"{node.name}/Whole", to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{x}.scale", f"{w}.scale"], [f"{y}.scales"], name=f"{node.name}/Scales")
    yield helper.make_node("Mul", [f"{y}.whole", f"{y}.scales"], [scaled], name=f"{node.name}/Scaled")
    if product.bias is not None:
        yield helper.make_node("Add", [scaled, product.bias], [result], name=f"{node.name}/Bias")
    if product.filters is not None:
        yield helper.make_node("Transpose", [result], [y], name=f"{node.name}/Back", perm=[0, 3, 1, 2])


@dataclass(frozen=True)
class _Constant:
    """A float32 constant: a tensor, whole numbers or half precision times `scale` where it is stored so."""

    tensor: TensorProto
    scale: TensorProto | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.dims)

    def values(self) -> Array:
        values = numpy_helper.to_array(self.tensor).astype(np.float32)
        return values if self.scale is None else values * numpy_helper.to_array(self.scale)


def _constants(graph: onnx.GraphProto) -> dict[str, _Constant]:
    """Float constants by name, those included that `export.onnx.weight_storage` stores in fewer bits."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {name: _Constant(tensor) for name, tensor in tensors.items() if tensor.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in tensors and node.attribute[0].i == TensorProto.FLOAT:
            found[node.output[0]] = _Constant(tensors[node.input[0]])
        elif node.op_type == "Mul" and node.name.endswith("/Scale") and {*node.input} <= found.keys():
            found[node.output[0]] = _Constant(found[node.input[0]].tensor, tensors[node.input[1]])
    return found
