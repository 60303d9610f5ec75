"""Configuration of CLIP: published sizes, and the config.json of Hugging Face folders."""

import pytest

from models import UnknownCheckpoint
from models.clip.config import CLIP_CONFIGS, VisionTransformerConfig, config_from_hf
from tests.models.small_clip import VIT, hf_config


def test_config_json_gives_our_config() -> None:
    assert config_from_hf(hf_config(VIT)) == VIT


def test_empty_config_json_is_the_smallest_published_vision_transformer() -> None:
    assert config_from_hf({}) == CLIP_CONFIGS["ViT-B/32"]


def test_older_section_takes_precedence() -> None:
    config = hf_config(VIT)
    config["text_config_dict"] = {**config["text_config"], "num_hidden_layers": 5}  # type: ignore[dict-item]
    assert config_from_hf(config).text.layers == 5


def test_heads_of_the_published_models_are_64_wide() -> None:
    for config in CLIP_CONFIGS.values():
        assert config.text.width == 64 * config.text.heads
        if isinstance(config.image, VisionTransformerConfig):
            assert config.image.width == 64 * config.image.heads


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("text_config", "hidden_act", "relu"),
        ("vision_config", "layer_norm_eps", 1e-6),
        ("vision_config", "intermediate_size", 97),
        ("text_config", "eos_token_id", 7),
        ("text_config", "num_attention_heads", 3),
        ("vision_config", "num_hidden_layers", "2"),
    ],
)
def test_huggingface_config_beyond_our_towers_is_refused(section: str, name: str, value: object) -> None:
    config = hf_config(VIT)
    config[section] = {**config[section], name: value}  # type: ignore[dict-item]
    with pytest.raises(UnknownCheckpoint, match=name if name != "num_attention_heads" else "heads"):
        config_from_hf(config)
