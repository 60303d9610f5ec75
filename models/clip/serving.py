"""Serving rules of CLIP, as openai/CLIP clip/clip.py runs it."""

from pathlib import Path

from models.clip.model import Clip
from models.family import ServingRules
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, ClassificationRules, Preprocessing

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # `_transform`


def serving_rules(model: Clip, tokenizer_file: Path) -> ServingRules:
    """Rules of a CLIP; labels are compared as written, without a template."""
    return ServingRules(
        preprocessing=Preprocessing(
            resize="shorter_crop",
            shorter=model.config.image.image_size,
            resample="bicubic",
            rgb_after_resize=True,
            mean=MEAN,
            std=STD,
        ),
        text=text_rules(tokenizer_file, "sentence", max_tokens=model.config.text.context_length),
        classification=ClassificationRules(logit_scale=model.logit_scale.exp().item()),
        buckets=Buckets(max_batch=16),
    )
