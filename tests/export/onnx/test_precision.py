"""Graphs in lower precision: what of them is reduced, and that the twin feels it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.onnx.precision import KEPT, PRODUCTS, REDUCED, reduced, reduced_products


def graph(*nodes, weights=None):
    """x [2, 3] -> y through these nodes."""
    shapes = {"x": [2, 3], "y": ["rows", "columns"]}
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (weights or {}).items()
    ]
    body = helper.make_graph(list(nodes), "graph", tensors[:1], tensors[1:], initializer=constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, x):
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": np.asarray(x, np.float32)})[0]


def product(name="layer/MatMul", target="y"):
    return helper.make_node("MatMul", ["x", "w"], [target], name=name)


X = [[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]]
WEIGHTS = {"w": [[1.0], [0.3], [1 / 3]]}


@pytest.mark.parametrize("precision", REDUCED)
def test_inputs_and_outputs_stay_float32(precision):
    model = reduced(graph(product(), weights=WEIGHTS), precision)
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    assert [node.op_type for node in model.graph.node] == ["Cast", "MatMul", "Cast"]


def test_original_graph_is_left_as_it_was():
    model = graph(product(), weights=WEIGHTS)
    before = model.SerializeToString()
    reduced(model, "fp16")
    assert model.SerializeToString() == before


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_weights_of_products_are_stored_in_half(precision):
    model = reduced(graph(product(), weights=WEIGHTS), precision)
    assert [tensor.data_type for tensor in model.graph.initializer] == [TensorProto.FLOAT16]


@pytest.mark.parametrize(("precision", "digits"), [("mixed", 2e-3), ("bf16", 2e-2)])
def test_twin_rounds_as_the_graph_does(precision, digits):
    exact = run(graph(product(), weights=WEIGHTS), X)
    rounded = run(reduced(graph(product(), weights=WEIGHTS), precision, twin=True), X)
    error = np.abs(rounded - exact).max()
    assert digits / 100 < error < digits


def test_twin_overflows_where_fp16_does():
    model = graph(product(), weights={"w": [[60000.0], [30000.0], [0.0]]})
    assert np.isfinite(run(model, X)).all()
    assert np.isposinf(run(reduced(model, "mixed", twin=True), X)[0, 0])
    assert np.isfinite(run(reduced(model, "bf16", twin=True), X)).all()


def test_infinite_constants_stay_infinite_and_large_ones_finite():
    model = graph(
        helper.make_node("Where", ["m", "big", "low"], ["z"], name="mask/Where"),
        helper.make_node("Add", ["x", "z"], ["y"], name="mask/Add"),
        weights={"big": 1e6, "low": -np.inf},
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([True, False, True]), "m"))
    answer = run(reduced(model, "fp16", twin=True), np.zeros((2, 3)))
    assert answer[0].tolist() == [65504.0, -np.inf, 65504.0]


def test_mixed_keeps_softmax_normalisation_and_residual_sums():
    model = graph(
        helper.make_node("MatMul", ["x", "square"], ["a"], name="attention/MatMul"),
        helper.make_node("Add", ["a", "b"], ["biased"], name="attention/Add"),
        helper.make_node("Softmax", ["biased"], ["s"], name="attention/Softmax"),
        helper.make_node("Add", ["s", "x"], ["sum"], name="block/Add"),
        helper.make_node("LayerNormalization", ["sum", "g"], ["y"], name="norm/LayerNormalization"),
        weights={"square": np.eye(3), "b": np.ones(3), "g": np.ones(3)},
    )
    half = {n.name for n in reduced(model, "mixed").graph.node if any(name.endswith(".half") for name in n.output)}
    assert {name for name in half if not name.endswith("Cast")} == {"attention/MatMul", "attention/Add"}


@pytest.mark.parametrize(
    "scope",
    [
        *("fusion_layers.0/attention", "decoder/box_head", "self_attn/sampling_offsets"),
        *("tower.0/fusion/attention", "tower.0/conv/offset", "token_alignment"),
    ],
)
def test_mixed_keeps_products_that_decide_scores_boxes_and_places(scope):
    model = graph(product(f"/model/{scope}/MatMul"), weights=WEIGHTS)
    assert reduced_products(reduced(model, "mixed")) == (0, 1)
    assert reduced_products(reduced(model, "fp16")) == (1, 1)


@pytest.mark.parametrize("name", ["detector_bundle", "gather_bundle"])
def test_mixed_detector_has_its_other_products_in_half(request, name):
    model = onnx.load(str(request.getfixturevalue(name) / "detector.onnx"))
    kept = sum(node.op_type in PRODUCTS and bool(KEPT.search(node.name)) for node in model.graph.node)
    half, total = reduced_products(reduced(model, "mixed"))
    assert 0 < kept < total
    assert half == total - kept


def test_guard_against_a_softmax_of_nothing_is_dropped(clip_bundle):
    model = onnx.load(str(clip_bundle / "text_encoder.onnx"))
    assert any(node.op_type == "IsNaN" for node in model.graph.node)
    assert not any(node.op_type == "IsNaN" for node in reduced(model, "mixed").graph.node)


def test_weights_stored_at_half_precision_need_no_cast_back():
    widen = helper.make_node("Cast", ["stored"], ["w"], name="w/Cast", to=TensorProto.FLOAT)
    model = graph(widen, product())
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 1), np.float16), "stored"))
    rewritten = reduced(model, "mixed")
    assert [node.op_type for node in rewritten.graph.node] == ["Cast", "MatMul", "Cast"]
    assert [(tensor.name, tensor.data_type) for tensor in rewritten.graph.initializer] == [
        ("w.half", TensorProto.FLOAT16)
    ]
