"""How a model trained on data sets reads pictures and texts, where its recipe says nothing: as its family is served."""

from pathlib import Path
from typing import Any

from models.clip.config import ClipConfig
from models.glip.config import GlipConfig
from models.grounding_dino.config import GroundingDinoConfig
from models.tokenizers import text_rules
from server.contract.manifest import Preprocessing, TextRules

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GLIP_MEAN, GLIP_STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # BGR, 0..255
MAX_TOKENS = 256


def preprocessing_of(config: Any) -> Preprocessing:
    """The official preprocessing of a model's family; the tests hold it to that of exported bundles."""
    if isinstance(config, ClipConfig):
        return Preprocessing(
            resize="shorter_crop",
            shorter=config.image.image_size,
            resample="bicubic",
            rgb_after_resize=True,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        )
    if isinstance(config, GlipConfig):
        return Preprocessing(
            resize="shorter_longer", shorter=800, longer=1333, channels="bgr", scale=1.0, mean=GLIP_MEAN, std=GLIP_STD
        )
    return Preprocessing(resize="shorter_longer", shorter=800, longer=1333, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def text_rules_of(config: Any, tokenizer: Path) -> TextRules:
    """How a model's family tokenises."""
    if isinstance(config, ClipConfig):
        return text_rules(tokenizer, "sentence", max_tokens=config.text.context_length)
    positions = config.text.max_positions
    if isinstance(config, GlipConfig):
        return text_rules(tokenizer, "phrases", max_tokens=min(MAX_TOKENS, positions), attention="prompt")
    assert isinstance(config, GroundingDinoConfig)
    return text_rules(
        tokenizer,
        "phrases",
        max_tokens=MAX_TOKENS,
        max_label_tokens=positions if positions < MAX_TOKENS else None,
    )
