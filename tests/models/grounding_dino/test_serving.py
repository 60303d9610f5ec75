"""Serving rules of Grounding DINO against the official code."""

from dataclasses import replace

import pytest

from models.grounding_dino.serving import serving_rules
from models.tokenizers import standard_file
from tests.models.small_grounding_dino import SWIN, random_model


def test_rules_are_those_of_the_official_code():
    rules = serving_rules(random_model(SWIN), standard_file("bert_wordpiece"))
    assert (rules.preprocessing.shorter, rules.preprocessing.longer) == (800, 1333)
    assert (rules.preprocessing.channels, rules.preprocessing.resample) == ("rgb", "bilinear")
    assert rules.preprocessing.mean == (0.485, 0.456, 0.406)
    assert rules.buckets.pixel_multiple == 1
    assert (rules.detection.box_threshold, rules.detection.text_threshold) == (0.35, 0.25)
    assert rules.detection.nms_iou is None
    assert rules.detection.token_reduction == "max"
    assert rules.detection.max_detections == SWIN.num_queries


@pytest.mark.parametrize(("positions", "longest"), [(48, 48), (256, None)])
def test_a_label_may_not_be_longer_than_the_model_has_positions(positions, longest):
    config = replace(SWIN, text=replace(SWIN.text, max_positions=positions))
    rules = serving_rules(random_model(config), standard_file("bert_wordpiece"))
    assert (rules.text.attention, rules.text.max_tokens, rules.text.max_label_tokens) == ("label", 256, longest)
