"""Serving rules of GLIP against the official code."""

from dataclasses import replace

import pytest

from models.glip.serving import serving_rules
from models.tokenizers import standard_file
from server.contract.image import resized_size
from tests.models.small_glip import SWIN, random_model


@pytest.fixture(scope="module")
def rules():
    return serving_rules(random_model(SWIN), standard_file("bert_wordpiece"))


def test_rules_are_those_of_the_official_code(rules):
    assert (rules.preprocessing.channels, rules.preprocessing.scale) == ("bgr", 1.0)
    assert rules.preprocessing.mean == (103.53, 116.28, 123.675)
    assert (rules.preprocessing.shorter, rules.preprocessing.longer) == (800, 1333)
    assert resized_size(500, 3000, rules.preprocessing) == (222, 1332)
    assert rules.buckets.pixel_multiple == 32
    assert rules.detection.labels_per_box == "all"
    assert rules.detection.box_edges == "inclusive"
    assert (rules.detection.box_threshold, rules.detection.nms_iou, rules.detection.max_detections) == (0.7, 0.6, 100)


@pytest.mark.parametrize(("positions", "tokens"), [(48, 48), (512, 256)])
def test_a_prompt_has_at_most_256_tokens_and_no_more_than_the_model_has_positions(positions, tokens):
    config = replace(SWIN, text=replace(SWIN.text, max_positions=positions))
    rules = serving_rules(random_model(config), standard_file("bert_wordpiece"))
    assert (rules.text.attention, rules.text.max_tokens) == ("prompt", tokens)
