import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export import glip
from export.bundle import export_bundle
from export.certificate.verify import verify
from export.graph_spec import GraphSpec
from export.onnx.weight_storage import round_weights, store_weights
from export.progress import Progress
from models import registry
from server.bundle import Bundle

WIDE, NARROW = (64, 32), (4, 2)


def model(weights: np.ndarray) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(shape: tuple[int, int], *, rounded: bool = True) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return values.astype(np.float16).astype(np.float32) if rounded else values


def test_round_weights_are_stored_in_half_and_computed_with_in_full() -> None:
    graph = model(weights(WIDE))
    store_weights(graph, "fp16")
    onnx.checker.check_model(graph)
    assert [tensor.data_type for tensor in graph.graph.initializer] == [TensorProto.FLOAT16]
    x = weights((3, WIDE[0]), rounded=False)
    (y,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x})
    (expected,) = onnxruntime.InferenceSession(model(weights(WIDE)).SerializeToString()).run(None, {"x": x})
    assert np.array_equal(y, expected)


@pytest.mark.parametrize(
    "kept",
    [weights(NARROW), weights(WIDE, rounded=False), weights(WIDE) * 1e6, weights(WIDE).astype(np.float64)],
    ids=["small", "not round", "huge", "double"],
)
def test_other_weights_stay_as_they_are(kept: np.ndarray) -> None:
    graph = model(kept)
    before = graph.SerializeToString()
    store_weights(graph, "fp16")
    assert graph.SerializeToString() == before


@given(
    st.integers(0, 2**32 - 1),
    st.floats(-12, 4),
    st.sampled_from([(64, 32), (32, 64), (40, 8, 3, 3)]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_whole_weights_of_any_size_are_stored_in_a_quarter_and_computed_with_exactly(
    seed, size, shape, transposed
) -> None:
    module = nn.Module()
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(10.0**size)
    values[3] = 0.0
    module.weight = nn.Parameter(torch.from_numpy(values))
    round_weights([dataclasses.replace(spec_of(nn.Conv2d(3, 2, 1)), module=Alone(module))], "int8")
    rounded = module.weight.detach().numpy()
    channels = tuple(range(1, len(shape)))
    assert (np.abs(rounded - values).max(channels) <= np.abs(values).max(channels) / 253).all()
    stored = model(rounded.reshape(shape[0], -1).T.copy() if transposed else rounded.reshape(shape[0], -1))
    expected = numpy_helper.to_array(stored.graph.initializer[0])
    store_weights(stored, "int8")
    onnx.checker.check_model(stored)
    assert [one.data_type for one in stored.graph.initializer] == [TensorProto.INT8, TensorProto.FLOAT]
    (y,) = onnxruntime.InferenceSession(stored.SerializeToString()).run(
        None, {"x": np.eye(expected.shape[0], dtype=np.float32)}
    )
    assert np.array_equal(y, expected)


class Alone(nn.Module):
    """A module with weights that its graph does not read."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def spec_of(module: nn.Module) -> GraphSpec:
    x = {"x": torch.randn(1, 3, 8, 8)}
    return GraphSpec("image_encoder", module.eval(), x, x, {"x": {0: "batch"}, "y": {0: "batch"}})


def test_a_norm_is_folded_into_its_convolution_before_rounding() -> None:
    module = Normed().train()
    for _ in range(3):
        module(torch.randn(4, 3, 8, 8) * 3 + 1)  # statistics that matter
    nn.init.uniform_(module.norm.weight, 0.5, 2.0)
    part = spec_of(module)
    before = module(part.inputs["x"])
    round_weights([part], "fp16")
    after = module(part.inputs["x"])
    torch.testing.assert_close(after, before, atol=0.01, rtol=0.01)
    assert torch.equal(module.conv.weight, module.conv.weight.half().float())
    scale = module.norm.weight / (module.norm.running_var + module.norm.eps).sqrt()
    assert torch.equal(scale, torch.ones(8))


def test_a_weight_that_half_precision_cannot_hold_is_named() -> None:
    module = Normed()
    nn.init.constant_(module.conv.weight, 1e6)
    with pytest.raises(ValueError, match=r"conv\.weight.*half precision"):
        round_weights([spec_of(module)], "fp16")


@pytest.mark.parametrize(
    ("name", "storage", "part"),
    [
        ("clip-words", "fp16", 0.75),
        ("clip-words", "int8", 0.7),
        ("detector-swin", "fp16", 0.75),
        ("glip", "int8", 0.7),
        pytest.param("detector-swin", "int8", 0.7, marks=pytest.mark.slow),
        pytest.param("glip", "fp16", 0.75, marks=pytest.mark.slow),
    ],
)
def test_bundle_of_rounded_weights_is_certified_for_what_it_stores(
    name, storage, part, save_checkpoint, tmp_path
) -> None:
    checkpoint = save_checkpoint(name)
    full = export_bundle(checkpoint, tmp_path / "full")
    less = export_bundle(checkpoint, tmp_path / "less", weights=storage)
    for before, after in zip(full.artefacts, less.artefacts, strict=True):
        assert (before.weights, after.weights) == ("fp32", storage)
        assert after.certificate is not None
        assert after.certificate.passed
        sizes = [initializer_bytes(tmp_path / folder / after.file) for folder in ("less", "full")]
        assert sizes[0] < part * sizes[1]
    assert verify(tmp_path / "less", Progress(quiet=True)).faults == ()
    assert Bundle(tmp_path / "less").uncertified == {}


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_rounding_changes_no_weight_twice(save_checkpoint, storage) -> None:
    checkpoint = registry.load(save_checkpoint("glip"))
    specs = glip.graphs(checkpoint)
    round_weights(specs, storage)
    once = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    round_weights([dataclasses.replace(spec) for spec in specs], storage)
    assert all(torch.equal(once[name], value) for name, value in checkpoint.model.state_dict().items())


def initializer_bytes(file) -> int:
    return sum(len(tensor.raw_data) for tensor in onnx.load(str(file)).graph.initializer)
