"""A model is trained on pictures and texts as its family's bundles serve them."""

import pytest

from export import clip, glip, grounding_dino
from models import tokenizers
from models.clip.config import CLIP_CONFIGS
from models.clip.model import Clip
from models.glip.config import GLIP_T
from models.grounding_dino.config import SWIN_T
from models.registry import LoadedCheckpoint
from models.training.serving import preprocessing_of, text_rules_of
from tests.models import small_clip


@pytest.mark.parametrize(
    ("family", "config", "vocabulary"),
    [
        (clip, CLIP_CONFIGS["ViT-B/32"], "clip_bpe"),
        (glip, GLIP_T, "bert_wordpiece"),
        (grounding_dino, SWIN_T, "bert_wordpiece"),
    ],
    ids=["clip", "glip", "grounding_dino"],
)
def test_training_reads_as_serving_does(family, config, vocabulary):
    file = tokenizers.standard_file(vocabulary)
    checkpoint = LoadedCheckpoint(
        "", "", "", Clip(small_clip.VIT), config, "", "", "", file
    )  # the scale is all it reads
    rules = family.rules(checkpoint)
    assert preprocessing_of(config) == rules.preprocessing
    assert text_rules_of(config, file) == rules.text
