import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.benchmarks import eager


def weights(name, *shape):
    return numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), name)


def test_operations_of_products_and_convolutions_are_counted_and_no_others(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["map"], group=2, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("MatMul", ["positive", "matrix"], ["product"]),
        helper.make_node("Transpose", ["product"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["product", "turned"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in ("x", "y")]
    stored = [weights("filters", 6, 2, 3, 3), weights("matrix", 7, 11)]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "g.onnx")
    inputs = {"x": np.zeros((1, 4, 5, 7), np.float32)}
    convolution, product, with_itself = 6 * 5 * 7 * (2 * 9), 6 * 5 * 7 * 11, 6 * 5 * 11 * 5
    assert eager.operations(tmp_path / "g.onnx", inputs, 1) == 2 * (convolution + product + with_itself)


def test_row_compares_with_eager_and_with_the_bound():
    assert eager._row("ours", [2.0, 1.0, 3.0], 6.0, 1.5) == "| ours | 2.00, 1.00, 3.00 s | 3.00 times as fast | 75% |"
