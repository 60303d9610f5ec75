"""Graphs without weights: initializers named after the model's tensors, nothing of the traced weights inside."""

import onnx
import pytest
import torch
from torch import nn

from export import ExportError
from export.graph_spec import GraphSpec
from export.templates.graphs import check_all_differ, trace_part
from export.templates.template import offsets_of
from tests.export.templates.conftest import CONFIGS


@pytest.mark.parametrize("family", list(CONFIGS))
def test_every_float_of_a_graph_is_a_tensor_of_the_model(tiny_models, family):
    stored = tiny_models[family].stored
    for part in stored.template.parts:
        graph = onnx.load_from_string(stored.graphs[part.artefact.file]).graph
        outside = [tensor for tensor in graph.initializer if tensor.external_data]
        assert [tensor.data_type for tensor in graph.initializer if not tensor.external_data].count(1) == 0
        entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in outside]
        assert [int(entry["offset"]) for entry in entries] == offsets_of(part.initializers)
        assert {entry["location"] for entry in entries} == {part.data_file}
        for tensor, initializer in zip(outside, part.initializers, strict=True):
            assert tuple(tensor.dims) == initializer.shape
            assert tensor.name.removesuffix(".transposed").endswith(initializer.key)
            shape = stored.template.tensors[initializer.key].shape
            assert initializer.shape == (shape[::-1] if initializer.transposed else shape)


class Products(nn.Module):
    """A matrix used as it is and transposed, another transposed only, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.turned = nn.Parameter(torch.rand(3, 4)), nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.turned((x @ self.both) @ self.both.T)


def spec(module):
    x = torch.rand(2, 7, 3)
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    return GraphSpec(name="image_encoder", module=module.eval(), inputs={"x": x}, canary={"x": x}, axes=axes)


def test_matrix_that_is_transposed_is_stored_so(tmp_path):
    module = Products()
    traced = trace_part(spec(module), module, tmp_path)
    assert [(each.key, each.transposed) for each in traced.initializers] == [
        ("both", False),
        ("turned.bias", False),
        ("both", True),
        ("turned.weight", True),
    ]
    operators = [node.op_type for node in onnx.load_from_string(traced.graph).graph.node]
    assert "Transpose" not in operators


def test_tracing_leaves_no_file_and_gives_the_same_graph_again(tmp_path):
    module = Products()
    first = trace_part(spec(module), module, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        module.both += 1
    assert trace_part(spec(module), module, tmp_path) == first


class WithConstant(nn.Module):
    """Multiplies by numbers that are no tensor of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.register_buffer("hidden", torch.rand(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight * self.get_buffer("hidden")


def test_small_constant_stays_in_the_graph(tmp_path):
    module = WithConstant()
    traced = trace_part(spec(module), module, tmp_path)
    assert [each.key for each in traced.initializers] == ["weight"]


def test_equal_tensors_are_refused():
    module = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    with pytest.raises(ExportError, match=r"and 0\.weight are equal"):
        check_all_differ(module)
