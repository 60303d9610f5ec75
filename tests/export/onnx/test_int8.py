"""Graphs in int8: what of them is rewritten, and how near they come."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from export.onnx.int8 import LARGEST, Int8Writer, group_of, whole_numbers
from export.onnx.weight_storage import _integers

RNG = np.random.default_rng(0)
W = RNG.standard_normal((64, 48)).astype(np.float32)
X = RNG.standard_normal((5, 64)).astype(np.float32)


def graph(*nodes, columns=48, **constants):
    """x [.., 64] -> y through these nodes."""
    x, y = (helper.make_tensor_value_info(name, 1, ["rows", size]) for name, size in (("x", 64), ("y", columns)))
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(list(nodes), "graph", [x], [y], initializer=tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def product(kind="MatMul", *inputs, name="layer/fc/MatMul", target="y", **attributes):
    return helper.make_node(kind, list(inputs or ("x", "w")), [target], name=name, **attributes)


def in_int8(model):
    writer = Int8Writer(model)
    rewritten = writer.rewritten(writer.groups)
    onnx.checker.check_model(rewritten)
    return rewritten


def run(model, x=X):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def kinds(model):
    return [node.op_type for node in model.graph.node]


def error(model, x=X):
    exact = run(model, x)
    return np.abs(run(in_int8(model), x) - exact).max() / np.abs(exact).max()


def test_product_with_constant_weights_is_computed_in_int8():
    model = in_int8(graph(product(), w=W))
    assert kinds(model) == ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"]
    assert "w" not in {tensor.name for tensor in model.graph.initializer}, "the float32 weights are gone"


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (product(), {"w": W}),
        (product("Gemm", "x", "w", "b"), {"w": W, "b": W[0]}),
        (product("Gemm", "x", "w", "b", transB=1), {"w": W.T.copy(), "b": W[0]}),
        (product("Gemm", "x", "w", ""), {"w": W}),
    ],
    ids=["MatMul", "Gemm", "turned Gemm", "Gemm with its bias left out"],
)
def test_answer_is_that_of_float32_to_a_hundredth(node, constants):
    assert 1e-6 < error(graph(node, **constants)) < 0.02


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-6, 1e6), offset=st.floats(-100, 100), rows=st.integers(1, 9))
def test_error_does_not_hang_on_the_scale_of_the_operands(scale, offset, rows):
    x = (np.random.default_rng(rows).standard_normal((rows, 64)) + offset).astype(np.float32)
    spread = np.abs(x).max() * np.abs(W).sum(0).max() * scale
    model = graph(product(), w=(W * scale).astype(np.float32))
    assert np.abs(run(in_int8(model), x) - run(model, x)).max() <= 0.03 * spread


def test_product_of_two_computed_operands_is_left_alone():
    square = product("MatMul", "x", "turned", name="attention/MatMul")
    turn = helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0])
    model = graph(turn, square, columns="rows")
    assert Int8Writer(model).groups == ()
    assert kinds(in_int8(model)) == ["Transpose", "MatMul"]


@pytest.mark.parametrize("bias", [(), ("bias",)], ids=["", "bias"])
def test_deformable_convolution_is_computed_in_int8(bias):
    sizes = {"x": (2, 6, 7, 9), "offset": (2, 18, 7, 9), "mask": (2, 9, 7, 9)}
    feeds = {name: RNG.random(size, np.float32) for name, size in sizes.items()}
    w, b = RNG.standard_normal((40, 6, 3, 3)).astype(np.float32), RNG.standard_normal(40).astype(np.float32)
    node = helper.make_node(
        "DeformConv", ["x", "w", "offset", *(bias or ("",)), "mask"], ["y"], name="tower/conv/Deform", pads=[1] * 4
    )
    inputs = [helper.make_tensor_value_info(name, 1, size) for name, size in sizes.items()]
    tensors = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "bias")]
    output = helper.make_tensor_value_info("y", 1, (2, 40, 7, 9))
    body = helper.make_graph([node], "graph", inputs, [output], initializer=tensors)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    rewritten = in_int8(model)
    assert kinds(rewritten).count("MatMulInteger") == 1
    assert "w" not in {tensor.name for tensor in rewritten.graph.initializer}
    exact, got = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, feeds)[0] for each in (model, rewritten)
    )
    assert 1e-6 < np.abs(got - exact).max() / np.abs(exact).max() < 0.02


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (product(), {"w": W[:, :4].copy()}),
        (product("Gemm", "x", "w", alpha=2.0), {"w": W}),
    ],
    ids=["few columns", "alpha"],
)
def test_product_that_would_gain_nothing_or_is_another_is_left_alone(node, constants):
    assert Int8Writer(graph(node, columns="columns", **constants)).groups == ()


def test_operand_of_two_products_is_rounded_once():
    first = product("MatMul", "x", "w", name="layer/q/MatMul", target="q")
    second = product("MatMul", "x", "v", name="layer/v/MatMul", target="v_out")
    model = in_int8(graph(first, second, helper.make_node("Add", ["q", "v_out"], ["y"]), w=W, v=W[::-1].copy()))
    assert kinds(model).count("DynamicQuantizeLinear") == 1
    assert kinds(model).count("MatMulInteger") == 2


@pytest.mark.parametrize("second", ["MatMul", "Gemm"])
def test_weights_of_two_products_in_a_row_may_be_the_same_also_turned(second):
    square = RNG.standard_normal((64, 64)).astype(np.float32)
    first = product("MatMul", "x", "w", name="layer/a/MatMul", target="between")
    turned = {"transB": 1} if second == "Gemm" else {}
    model = graph(first, product(second, "between", "w", name="layer/b", **turned), columns=64, w=square)
    assert 1e-6 < error(model) < 0.03


def test_names_of_nodes_need_not_differ():
    model = graph(product(name="", target="h"), helper.make_node("Relu", ["h"], ["y"]), w=W)
    assert 1e-6 < error(model) < 0.03


def test_groups_that_are_not_asked_for_stay_float32():
    first = product("MatMul", "x", "w", name="/encoder/layers.0/ffn/fc1/MatMul", target="q")
    second = product("MatMul", "x", "v", name="/box_head/layers.1/MatMul", target="v_out")
    writer = Int8Writer(graph(first, second, helper.make_node("Add", ["q", "v_out"], ["y"]), w=W, v=W))
    assert writer.groups == ("encoder/layers/ffn", "box_head")
    assert writer.weights_of("box_head") == W.size
    assert kinds(writer.rewritten({"box_head"})).count("MatMul") == 1


def test_layers_of_one_kind_are_one_group():
    assert group_of("/decoder/layers.5/ffn/fc1/MatMul") == group_of("/decoder/layers.0/ffn/fc2/MatMul")
    assert group_of("/tower.3/conv/same_4/DeformConv") == group_of("/tower.0/conv/same/DeformConv") == "tower/conv/same"
    assert group_of("/encoder/layers.0/self_attn/sampling_offsets/MatMul") == "offset"


def test_weights_that_are_stored_in_fewer_bits_are_read():
    whole, scale = _integers(W.T)
    nodes = [
        helper.make_node("Cast", ["w_int8"], ["w_whole"], name="w/Cast", to=1),
        helper.make_node("Mul", ["w_whole", "w_scale"], ["w"], name="w/Scale"),
        product(),
    ]
    model = graph(*nodes, w_int8=whole.T.astype(np.int8), w_scale=scale.T.copy())
    assert error(model) < 0.02
    assert "Scale" not in "".join(
        node.name.split("/")[-1] for node in in_int8(model).graph.node if node.name == "w/Scale"
    )
    assert "w_int8" not in {tensor.name for tensor in in_int8(model).graph.initializer}


def test_two_products_fit_the_int16_of_processors_without_vnni():
    assert 2 * 255 * LARGEST < 2**15


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30))
def test_weights_are_rounded_by_half_a_step_at_most(seed, size):
    weights = (np.random.default_rng(seed).standard_normal((7, 3)) * size).astype(np.float32)
    weights[:, 1] = 0
    whole, scale = whole_numbers(weights)
    assert np.abs(whole.astype(np.int64)).max() <= LARGEST
    assert (np.abs(whole * scale.astype(np.float64) - weights) <= 0.501 * scale).all()


@pytest.mark.parametrize("least", [0, 1e-45, 1e-40, 1e-30])
def test_columns_of_tiny_weights_stay_tiny(least):
    whole, scale = whole_numbers(np.asarray([[least, 1], [-least, 2]], np.float32))
    assert np.abs(whole[:, 0] * scale[0]).max() <= 1.01 * least
    assert whole[1, 1] == LARGEST


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_hidden(fault):
    weights = W.copy()
    weights[3, 5] = fault
    answer = run(in_int8(graph(product(), w=weights)))
    assert (~np.isfinite(answer).all(axis=0)).nonzero()[0].tolist() == [5]
