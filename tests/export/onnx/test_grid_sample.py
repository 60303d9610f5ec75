import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from export.onnx.grid_sample import without_deform_conv

FLOAT = onnx.TensorProto.FLOAT


def deform_conv(**attributes):
    """A graph of one DeformConv, all of whose sizes are dynamic."""
    names = ("x", "kernel", "offsets", "bias", "weights")
    node = helper.make_node("DeformConv", names, ["y"], name="conv", **attributes)
    values = [helper.make_tensor_value_info(name, FLOAT, [None] * (1 if name == "bias" else 4)) for name in names]
    graph = helper.make_graph([node], "graph", values, [helper.make_tensor_value_info("y", FLOAT, [None] * 4)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def run(model, feeds):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize(
    ("kernel", "pads", "stride", "groups", "offset_groups"),
    [
        ((3, 3), (1, 1, 1, 1), 1, 1, 1),
        ((3, 3), (1, 1, 1, 1), 2, 1, 1),
        ((1, 4), (0, 1, 0, 2), 1, 8, 2),
        ((2, 3), (0, 1, 1, 2), 1, 2, 4),
    ],
)
def test_grid_sample_and_product_are_the_operator_within_rounding(kernel, pads, stride, groups, offset_groups):
    random = np.random.default_rng(0)
    height, width = 7, 9
    sides = [
        (side + before + after - taps) // stride + 1
        for side, before, after, taps in zip((height, width), pads[:2], pads[2:], kernel, strict=True)
    ]
    taps = kernel[0] * kernel[1]
    feeds = {
        "x": random.normal(size=(2, 8, height, width)),
        "kernel": random.normal(size=(16, 8 // groups, *kernel)),
        "offsets": random.normal(size=(2, offset_groups * taps * 2, *sides), scale=3),
        "bias": random.normal(size=16),
        "weights": random.random(size=(2, offset_groups * taps, *sides)),
    }
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    model = deform_conv(
        kernel_shape=kernel, pads=pads, strides=[stride, stride], group=groups, offset_group=offset_groups
    )
    wanted = run(model, feeds)[0]
    written = without_deform_conv(model)
    onnx.checker.check_model(written, full_check=True)
    assert "DeformConv" not in {node.op_type for node in written.graph.node}
    assert wanted.shape == (2, 16, *sides)
    np.testing.assert_allclose(run(written, feeds)[0], wanted, rtol=1e-4, atol=1e-4)


def test_graph_without_the_operator_stays_as_it_is():
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, FLOAT, [1]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "graph", values[:1], values[1:]))
    assert without_deform_conv(model) == model
