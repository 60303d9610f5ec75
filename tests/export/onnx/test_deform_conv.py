"""The operator's graphs in ONNX Runtime against the models' own functions; whole detectors are in `test_tracing.py`."""

import contextlib

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import models.glip.deformable as glip
import models.grounding_dino.deformable as dino
from export.onnx.deform_conv import deform_convs

# The tracer warns of every size read as a number, as `export.onnx.tracing` has it.
pytestmark = pytest.mark.filterwarnings("ignore")
GLIP_NAMES = ("x", "offsets", "weights", "kernel", "bias")


class Convolution(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, *inputs):
        return glip.deform_conv2d(*inputs, stride=self.stride)


class Cells(nn.Module):
    """`sample_at_cells` of levels of these sizes."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, *inputs):
        value, offsets, weights, centre, step = inputs
        return dino.sample_at_cells(value, self.shapes, offsets, weights, centre, step)


def traced(module, inputs, names, file):
    with deform_convs():
        torch.onnx.export(module, inputs, str(file), input_names=names, opset_version=19, dynamo=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    (output,) = session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})
    return output


def random(generator, *shape, scale=1.0):
    return torch.randn(shape, generator=generator) * scale


@pytest.mark.parametrize(
    ("stride", "height", "width", "rows", "columns"),
    [
        (1, 6, 9, 6, 9),
        (2, 6, 9, 3, 5),
        (2, 7, 9, 3, 4),  # a backbone that rounds sizes down
    ],
)
def test_convolution_is_that_of_the_model(stride, height, width, rows, columns, tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs = (
        random(generator, 2, 4, height, width),
        random(generator, 2, 18, rows, columns, scale=3.0),
        random(generator, 2, 9, rows, columns).sigmoid(),
        random(generator, 5, 4, 3, 3),
        random(generator, 5),
    )
    wanted = glip.deform_conv2d(*inputs, stride=stride).numpy()
    got = traced(Convolution(stride), inputs, GLIP_NAMES, tmp_path / "conv.onnx")
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize(
    "shapes", [((5, 7), (3, 4), (2, 2)), ((2, 1), (1, 1)), ((1, 1),)], ids=["three levels", "one column", "one cell"]
)
@pytest.mark.parametrize(("points", "reach"), [(4, 0.5), (3, 4.0), (1, 40.0)])
def test_samples_at_cells_are_those_of_the_model(shapes, points, reach, tmp_path):
    generator = torch.Generator().manual_seed(0)
    batch, heads, width, levels = 2, 3, 4, len(shapes)
    cells = sum(height * width_ for height, width_ in shapes)
    inputs = (
        random(generator, batch, cells, heads, width),
        random(generator, batch, cells, heads, levels, points, 2, scale=reach),
        random(generator, batch, cells, heads, levels, points).sigmoid(),
        torch.rand(batch, cells, levels, 2, generator=generator),
        torch.rand(1, 1, levels, 2, generator=generator),
    )
    wanted = Cells(shapes)(*inputs).numpy()
    got = traced(Cells(shapes), inputs, ("value", "offsets", "weights", "centre", "step"), tmp_path / "cells.onnx")
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_models_compute_by_their_own_functions_again_afterwards():
    before = glip.deform_conv2d, dino.sample_at_cells
    with contextlib.suppress(RuntimeError), deform_convs():
        assert glip.deform_conv2d is not before[0]
        raise RuntimeError
    assert (glip.deform_conv2d, dino.sample_at_cells) == before
