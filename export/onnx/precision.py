"""Rewrites a float32 graph in fp16, bf16 or mixed precision, as casts that TensorRT 11 and ONNX Runtime both read.

"mixed" and "bf16" compute matrix products and convolutions, and the elementwise operators between them, in fp16 or
bf16; all else stays float32: softmax, normalisation, residual sums, positions, sampling, and products that make a
score, a box or a position (`KEPT`). "fp16" computes all that has an fp16 form. Inputs and outputs stay float32.

Existing converters (onnxruntime.transformers.float16, onnxconverter-common) write fp16 only, and its errors cannot be
measured on a CPU: ONNX Runtime computes it in float32 and skips the rounding between operators, overflows included.
So each graph has a float32 `twin` that rounds wherever the graph does.
"""

import re
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Reduced = Literal["fp16", "bf16", "mixed"]
REDUCED: tuple[Reduced, ...] = ("fp16", "bf16", "mixed")
TYPES = {"fp16": TensorProto.FLOAT16, "mixed": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# Nodes under modules of these names stay float32: the fusion of GLIP and Grounding DINO comes near fp16's largest
# number, and the others decide the boxes or the choice of queries.
KEPT = re.compile(r"fusion|offset|box_head|logits|alignment|selection|position", re.IGNORECASE)
PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
# Selected where every input is in half precision already, or constant; some only move elements.
ELEMENTWISE = {
    *("Add", "Div", "Erf", "Mul", "Relu", "Sub"),
    *("Concat", "Flatten", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}  # fmt: skip
# Never selected: operators that make constants and types, and those without a half form in ONNX.
NEVER = {"Cast", "Constant", "ConstantOfShape", "CumSum", "Range", "Resize", "Shape"}


def reduced(model: onnx.ModelProto, precision: Reduced, *, twin: bool = False) -> onnx.ModelProto:
    """A copy of a float32 graph in this precision, or its twin."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    _drop_guards(graph)
    writer = _Writer(graph, TYPES[precision], twin=twin)
    chosen = _everything(graph, writer.floats) if precision == "fp16" else _products(graph, writer)
    writer.write(chosen)
    del graph.value_info[:]
    return model


def _drop_guards(graph: onnx.GraphProto) -> None:
    """Remove Where(IsNaN(x), constant, x), which the tracer puts behind every masked softmax.

    It never applies, as every query may attend somewhere, and it breaks the attention fusion of TensorRT-RTX 1.7
    between a float32 softmax and a product in half precision.
    """
    tested = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "IsNaN"}
    guards = {
        node.output[0]: node.input[2]
        for node in graph.node
        if node.op_type == "Where" and tested.get(node.input[0]) == node.input[2]
    }
    kept = [node for node in graph.node if not guards.keys() & set(node.output)]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = guards.get(name, name)
    used = {name for node in kept for name in node.input}
    kept = [node for node in kept if node.op_type != "IsNaN" or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)


def _everything(graph: onnx.GraphProto, floats: set[str]) -> set[int]:
    """Indices of the nodes that read or write floats and have a half form."""
    return {
        index
        for index, node in enumerate(graph.node)
        if node.op_type not in NEVER and any(name in floats for name in (*node.input, *node.output))
    }


def _products(graph: onnx.GraphProto, writer: "_Writer") -> set[int]:
    """Indices of products outside `KEPT`, and of the elementwise operators between them."""
    chosen: set[int] = set()
    half: set[str] = set()
    for index, node in enumerate(graph.node):
        if KEPT.search(node.name):
            continue
        taken = [name for name in node.input if name in writer.floats and name not in writer.constants]
        follows = node.op_type in ELEMENTWISE and bool(taken) and half.issuperset(taken)
        if node.op_type in PRODUCTS or follows:
            chosen.add(index)
            half.update(name for name in node.output if name in writer.floats)
    return chosen


class _Writer:
    """Rewrites the chosen nodes of a graph; `name.half` is tensor `name` in half precision.

    constants: of the graph, by name; floats: names of its float32 tensors.
    """

    def __init__(self, graph: onnx.GraphProto, type_: int, *, twin: bool) -> None:
        self.graph, self.type, self.twin = graph, type_, twin
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
            elif (
                node.op_type == "Cast" and node.input[0] in self.constants and node.attribute[0].i == TensorProto.FLOAT
            ):
                stored = numpy_helper.to_array(self.constants[node.input[0]])  # weights stored at half precision
                self.constants[node.output[0]] = numpy_helper.from_array(stored.astype(np.float32), node.output[0])
        values = [*graph.value_info, *graph.input, *graph.output]
        self.floats: set[str] = {
            value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.floats |= {name for name, value in self.constants.items() if value.data_type == TensorProto.FLOAT}
        self._halves: set[str] = set()
        self._nodes: list[NodeProto] = []

    def write(self, chosen: set[int]) -> None:
        """Replace the graph's nodes, the chosen ones reduced and surrounded by casts."""
        elsewhere = {value.name for value in self.graph.output}
        elsewhere |= {name for index, node in enumerate(self.graph.node) if index not in chosen for name in node.input}
        for index, node in enumerate(self.graph.node):
            if index in chosen:
                self._reduce(node, elsewhere)
            else:
                self._nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self._nodes)
        self._drop_unused()

    def _reduce(self, node: NodeProto, elsewhere: set[str]) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.floats:
                copy.input[index] = self._half(name)
        self._nodes.append(copy)
        for index, name in enumerate(node.output):
            if name in self.floats:
                copy.output[index] = f"{name}.raw" if self.twin else f"{name}.half"
                self._cast_output(name, copy.output[index], wanted=name in elsewhere)

    def _cast_output(self, name: str, source: str, *, wanted: bool) -> None:
        """Cast the output of a chosen node to float32; in the twin, rounded on the way."""
        self._halves.add(name)
        if self.twin:
            self._cast(source, f"{name}.rounded", self.type)
            self._cast(f"{name}.rounded", f"{name}.half", TensorProto.FLOAT)
        if wanted:
            self._cast(f"{name}.half", name, TensorProto.FLOAT)

    def _half(self, name: str) -> str:
        half = f"{name}.half"
        if name not in self._halves:
            self._halves.add(name)
            if name in self.constants:
                self.graph.initializer.append(_rounded(self.constants[name], half, self.type, twin=self.twin))
            elif self.twin:
                self._cast(name, f"{name}.rounded", self.type)
                self._cast(f"{name}.rounded", half, TensorProto.FLOAT)
            else:
                self._cast(name, half, self.type)
        return half

    def _cast(self, source: str, target: str, type_: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=type_))

    def _drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input} | {value.name for value in self.graph.output}
        nodes = [n for n in self.graph.node if n.op_type not in ("Cast", "Constant") or n.output[0] in used]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input} | {value.name for value in self.graph.output}
        keep = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(keep)


def _rounded(tensor: TensorProto, name: str, type_: int, *, twin: bool) -> TensorProto:
    """A constant in half precision, finite numbers kept finite; in the twin, float32 of the same value."""
    kind = helper.tensor_dtype_to_np_dtype(type_)
    values = numpy_helper.to_array(tensor)
    limit = np.float32(65504.0) if type_ == TensorProto.FLOAT16 else np.float32(3.38e38)
    values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values).astype(kind)
    if twin:
        return numpy_helper.from_array(values.astype(np.float32), name)
    return helper.make_tensor(name, type_, tensor.dims, values.tobytes(), raw=True)


def reduced_products(model: onnx.ModelProto) -> tuple[int, int]:
    """Number of a rewritten graph's products in half precision, and of all its products."""
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    return sum(any(name.endswith(".half") for name in node.input) for node in products), len(products)
