"""The specification of a graph, and the mosaic it is traced with."""

import torch
from torch import nn

from export.graph_spec import GraphSpec, mosaic


def spec():
    tensors = {"b": torch.zeros(1), "a": torch.ones(1)}
    axes = {"b": {0: "batch"}, "a": {0: "batch"}, "sum": {0: "batch"}, "product": {}}
    return GraphSpec("detector", nn.Identity(), tensors, {}, axes)


def test_outputs_are_the_axes_that_are_no_inputs_in_order():
    assert spec().outputs == ("sum", "product")


def test_arguments_are_the_modules_inputs_in_its_order():
    b, a = spec().arguments({"a": torch.tensor(1), "other": torch.tensor(9), "b": torch.tensor(2)})
    assert (int(b), int(a)) == (2, 1)


def test_mosaic_has_cells_of_eight_pixels_that_all_differ():
    values = mosaic(1, 20, 17)[0]
    assert values.shape == (3, 20, 17)
    assert (values[:, :8, :8] == values[:, :1, :1]).all()
    cells = values[:, ::8, ::8].flatten(1).T
    assert len(torch.unique(cells, dim=0)) == 3 * 3
    assert torch.equal(mosaic(2, 20, 17), mosaic(2, 20, 17))
