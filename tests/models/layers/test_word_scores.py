"""Logits from a map of words: at points, in boxes, and as they are added to those of the detectors."""

import torch

from models.glip.model import Glip
from models.grounding_dino.model import GroundingDino
from models.layers.word_scores import WordScores, at_points, in_boxes
from tests.export.conftest import EFFICIENTNET, _model, shaken


def ramp(height: int, width: int) -> torch.Tensor:
    """Maps [1, 2, h, w] whose values are the x and the y of each cell's centre."""
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


def test_a_point_reads_the_value_at_its_place():
    points = torch.tensor([[[0.3, 0.6], [0.5, 0.5], [0.8, 0.2]]])
    torch.testing.assert_close(at_points(ramp(8, 12), points), points)


def test_a_box_reads_the_mean_of_its_inside():
    maps = torch.zeros(1, 1, 32, 32)
    maps[:, :, 8:24, 16:32] = 2.0
    boxes = torch.tensor([[[0.75, 0.5, 0.5, 0.5], [0.25, 0.5, 0.3, 0.5], [0.5, 0.5, 1.0, 1.0]]])
    inside, outside, across = in_boxes(maps, boxes)[0, :, 0].tolist()
    assert (inside, outside) == (2.0, 0.0)
    assert 0.2 < across < 1.0


def test_a_cell_is_nearest_the_token_that_says_what_it_shows():
    scores = WordScores(4, 3)
    with torch.no_grad():
        scores.text.weight.copy_(torch.eye(3, 4))
        scores.text.bias.zero_()
    words, text = torch.eye(3).T[None, :, None] * 0.7, torch.eye(3, 4)[None] * 5
    logits = scores.maps(words, text)[0, :, 0]
    assert torch.equal(logits.argmax(0), torch.arange(3))
    unsure = scores.maps(words * 0.1, text)[0, :, 0]
    assert (unsure.diagonal() < 0.5 * logits.diagonal()).all()


def inputs(width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(1, 5, width, generator=generator)
    return {"text_features": text, "text_mask": torch.ones(1, 5, dtype=torch.bool)}


@torch.no_grad()
def test_glip_adds_them_at_each_position():
    model, _ = _model("glip-words", 30)
    assert isinstance(model, Glip)
    assert model.word_scores is not None
    pixels, asked = torch.randn(1, 3, 64, 96), inputs(model.config.text.width)
    *levels, words = model.encode_image(pixels)
    assert words.shape == (1, EFFICIENTNET.words, 2, 3)
    some, none = (model.detect([*levels, one], *asked.values()) for one in (words, torch.zeros_like(words)))
    added = some.token_logits - none.token_logits
    at_last = added[0, -sum(some.level_sizes[2:]) :][: some.level_sizes[2]].T.reshape(1, 5, 2, 3)
    torch.testing.assert_close(at_last, model.word_scores.maps(words, asked["text_features"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(some.boxes_xyxy, none.boxes_xyxy)


@torch.no_grad()
def test_grounding_dino_adds_them_to_every_layer_and_to_the_proposals():
    model, _ = _model("detector-words", 30)
    assert isinstance(model, GroundingDino)
    assert model.word_scores is not None
    shaken(model.word_scores, 1)
    asked = inputs(model.config.d_model)
    *levels, words = model.encode_image(torch.randn(1, 3, 64, 96))
    order, mask = torch.arange(5)[None], torch.ones(1, 5, 5, dtype=torch.bool)
    everywhere = words.mean((2, 3), keepdim=True).expand_as(words)
    added = model.word_scores.maps(everywhere, asked["text_features"])[0, :, 0, 0]
    pixels = torch.ones(1, 64, 96, dtype=torch.bool)
    some, none = (
        model.detect([*levels, one], pixels, asked["text_features"], asked["text_mask"], order, mask)
        for one in (everywhere, torch.zeros_like(words))
    )
    torch.testing.assert_close(
        some.proposal_logits - none.proposal_logits, added.expand_as(none.proposal_logits), atol=1e-4, rtol=1e-4
    )
    first = none.topk_indices[0].tolist()
    shared = [(first.index(place), row) for row, place in enumerate(some.topk_indices[0].tolist()) if place in first]
    assert shared
    if some.topk_indices.tolist() == none.topk_indices.tolist():
        torch.testing.assert_close(some.logits - none.logits, added.expand_as(none.logits), atol=1e-4, rtol=1e-4)
