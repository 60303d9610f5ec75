import dataclasses
import re
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import ExportError, clip, glip, grounding_dino
from export.onnx.tracing import to_onnx
from models import registry

FAMILIES = {"glip": glip, "grounding_dino": grounding_dino}


def tensors_of(named):
    return {name: tensor.numpy() for name, tensor in named.items()}


def run(session, named):
    wanted = {entry.name for entry in session.get_inputs()}
    return session.run(None, {name: value for name, value in tensors_of(named).items() if name in wanted})


@pytest.fixture(
    scope="module", params=["detector", "detector-swin", "detector-drawn", "glip", "glip-swin", "glip-drawn"]
)
def detector(request, save_checkpoint, tmp_path_factory):
    checkpoint = registry.load(save_checkpoint(request.param))
    family = FAMILIES[checkpoint.family]
    folder = tmp_path_factory.mktemp("graph")
    image, _, spec = family.graphs(checkpoint)
    for traced in (image, spec):
        to_onnx(traced, folder / f"{traced.name}.onnx")
    return image, spec, partial(family._inputs, checkpoint.config), folder


@pytest.mark.parametrize(
    ("batch", "height", "width", "tokens"),
    [(1, 96, 128, 9), (3, 131, 77, 14), (1, 57, 200, 5), (2, 160, 161, 33), (1, 40, 70, 4)],
)
def test_detector_runs_at_sizes_batches_and_token_counts_it_was_not_traced_with(detector, batch, height, width, tokens):
    image, spec, inputs_of, folder = detector
    inputs = inputs_of(batch=batch, height=height, width=width, length=tokens)
    with torch.inference_mode():
        levels = dict(zip(image.outputs, image.module(inputs["pixel_values"]), strict=True))
        answers = spec.module.with_rank_decided(*spec.arguments(inputs | levels))
        wanted_scores, wanted_boxes, decided = (value.numpy() for value in answers)
    got = run(onnxruntime.InferenceSession(str(folder / "image_encoder.onnx")), inputs)
    for level, wanted in zip(got, levels.values(), strict=True):
        np.testing.assert_allclose(level, wanted.numpy(), atol=1e-4 * float(wanted.abs().max()))
    scores, boxes = run(onnxruntime.InferenceSession(str(folder / "detector.onnx")), inputs | levels)
    assert scores.shape == wanted_scores.shape
    assert decided.mean() > 0.6  # others may change places with a neighbour
    np.testing.assert_allclose(scores[decided], wanted_scores[decided], atol=2e-4)
    np.testing.assert_allclose(boxes[decided], wanted_boxes[decided], atol=2e-5)


def test_clip_text_runs_at_any_batch_and_length(save_checkpoint, tmp_path):
    spec = clip.graphs(registry.load(save_checkpoint("clip")))[1]
    to_onnx(spec, tmp_path / "text.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "text.onnx"))
    for batch, length in ((1, 3), (5, 77)):
        ids = torch.arange(batch * length).reshape(batch, length) % 30
        (got,) = run(session, {"input_ids": ids})
        np.testing.assert_allclose(got, spec.module(ids).detach(), atol=1e-5)


@pytest.mark.parametrize("name", ["clip-average", "clip-words"])
def test_clip_image_whose_cells_are_averaged_runs_at_any_size(name, save_checkpoint, tmp_path):
    spec = clip.graphs(registry.load(save_checkpoint(name)))[0]
    to_onnx(spec, tmp_path / "image.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "image.onnx"))
    for size in ((1, 3, 64, 64), (3, 3, 97, 140)):
        pixels = torch.randn(size, generator=torch.Generator().manual_seed(0))
        (got,) = run(session, {"pixel_values": pixels})
        np.testing.assert_allclose(got, spec.module(pixels).detach(), atol=1e-5)


def test_graph_uses_an_opset_whose_grid_sample_tensorrt_gets_right(detector):
    model = onnx.load(str(detector[-1] / "detector.onnx"))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert any(node.op_type in ("DeformConv", "GridSample") for node in model.graph.node)


def test_another_opset_is_refused(save_checkpoint, tmp_path):
    spec = clip.graphs(registry.load(save_checkpoint("clip")))[1]
    with pytest.raises(ExportError, match="20"):
        to_onnx(spec, tmp_path / "text.onnx", opset=20)


def test_opset_without_the_operator_of_the_lowering_is_refused(save_checkpoint, tmp_path):
    spec = clip.graphs(registry.load(save_checkpoint("clip")))[1]
    with pytest.raises(ExportError, match=r"17.*deform_conv needs 19"):
        to_onnx(spec, tmp_path / "text.onnx", opset=17)


def test_graph_holds_no_path_of_the_machine_that_made_it(detector):
    for file in detector[-1].iterdir():
        data = file.read_bytes()
        assert not re.search(rb"\.py\b", data)
        assert b"/home" not in data


def test_part_larger_than_one_file_may_be_is_refused(save_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("export.onnx.tracing.MAX_BYTES", 1000)
    spec = clip.graphs(registry.load(save_checkpoint("clip")))[1]
    with pytest.raises(ExportError, match="2 GB"):
        to_onnx(spec, tmp_path / "text.onnx")


def test_tracing_leaves_the_module_in_eval_mode(save_checkpoint, tmp_path):
    spec = clip.graphs(registry.load(save_checkpoint("clip")))[1]
    to_onnx(dataclasses.replace(spec), tmp_path / "text.onnx")
    assert not any(module.training for module in spec.module.modules())
