"""Serving rules of CLIP against the official code."""

import pytest

from models.clip.serving import serving_rules
from models.tokenizers import standard_file
from tests.models import small_clip


def test_rules_are_those_of_the_official_code():
    model = small_clip.random_model(small_clip.VIT)
    rules = serving_rules(model, standard_file("clip_bpe"))
    assert (rules.preprocessing.resize, rules.preprocessing.resample) == ("shorter_crop", "bicubic")
    assert rules.preprocessing.rgb_after_resize
    assert rules.preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)
    assert rules.preprocessing.shorter == small_clip.VIT.image.image_size
    assert (rules.text.style, rules.text.max_tokens) == ("sentence", small_clip.TEXT.context_length)
    assert rules.classification.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert rules.detection is None
