"""Models that transformers publishes, against its own code, with random weights in the files that it writes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.clip.config import ClipConfig, TextConfig, VisionTransformerConfig
from models.grounding_dino import config as configs
from models.grounding_dino.config import GroundingDinoConfig
from models.registry import load
from tests.models.shaking import shaken
from tests.models.small_grounding_dino import MM_SWIN

transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra `dev`")
IDS = [101, 1037, 1058, 1012, 1039, 1012, 102]  # special tokens and full stops are those of the published vocabulary
VOCABULARY = 1100


CLIP = ClipConfig(
    12,
    VisionTransformerConfig(16, 8, 24, 2, 3, activation="gelu"),
    TextConfig(width=16, layers=2, heads=2, vocab_size=40, context_length=9, activation="gelu"),
)


def their_clip() -> nn.Module:
    def tower(own: VisionTransformerConfig | TextConfig) -> dict[str, object]:
        return {
            "hidden_size": own.width,
            "intermediate_size": 4 * own.width,
            "num_hidden_layers": own.layers,
            "num_attention_heads": own.heads,
            "hidden_act": own.activation,
        }

    text = {"vocab_size": 40, "max_position_embeddings": 9, "bos_token_id": 38, "eos_token_id": 39}
    settings = transformers.CLIPConfig(
        text_config=tower(CLIP.text) | text,
        vision_config=tower(CLIP.image) | {"image_size": 16, "patch_size": 8},
        projection_dim=CLIP.embed_dim,
    )
    torch.manual_seed(0)
    return shaken(transformers.CLIPModel(settings))


def test_clip_with_gelu_and_a_processor_of_its_own_computes_what_transformers_does(tmp_path: Path) -> None:
    model = their_clip()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 20}, "resample": 2,'
        ' "crop_size": {"height": 16, "width": 16}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    loaded = load(tmp_path)
    assert loaded.config == CLIP
    rules = loaded.serving["preprocessing"]
    assert (rules["shorter"], rules["crop"], rules["resample"], rules["mean"]) == (20, 16, "bilinear", (0.5,) * 3)
    pixels, ids = torch.randn(2, 3, 16, 16), torch.tensor([[38, 5, 7, 39], [38, 9, 39, 39]])
    with torch.no_grad():
        wanted = model(input_ids=ids, pixel_values=pixels)
        found = loaded.model(pixels, ids)
    torch.testing.assert_close(found.image_embeds, wanted.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.text_embeds, wanted.text_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.logits_per_image, wanted.logits_per_image, atol=1e-4, rtol=1e-4)


def small(**own: Any) -> GroundingDinoConfig:
    """The small model with the two widths that transformers derives from `ffn_hidden`."""
    text = replace(MM_SWIN.text, vocab_size=VOCABULARY)
    return replace(MM_SWIN, text=text, text_ffn_hidden=24, fusion_hidden=24, **own)


def theirs(config: GroundingDinoConfig) -> nn.Module:
    swin, text = config.backbone, config.text
    backbone = transformers.SwinConfig(
        image_size=32,
        embed_dim=swin.embed_dim,
        depths=swin.depths,
        num_heads=swin.heads,
        window_size=swin.window,
        out_features=[f"stage{stage + 1}" for stage in config.stages],
    )
    bert = transformers.BertConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        intermediate_size=text.hidden,
        max_position_embeddings=text.max_positions,
    )
    settings = transformers.MMGroundingDinoConfig(
        backbone_config=backbone,
        text_config=bert,
        d_model=config.d_model,
        num_feature_levels=config.levels,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_n_points=config.points,
        decoder_n_points=config.points,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_ffn_dim=config.ffn_hidden,
        decoder_ffn_dim=config.ffn_hidden,
        num_queries=config.num_queries,
        max_text_len=len(IDS),
        decoder_bbox_embed_share=False,
        decoder_cls_embed_share=False,
    )
    torch.manual_seed(0)
    return shaken(transformers.MMGroundingDinoForObjectDetection(settings))


@pytest.mark.parametrize("own", [{}, {"stages": (0, 1, 2, 3), "levels": 5}], ids=["tiny and base", "large"])
def test_mm_grounding_dino_computes_what_transformers_does(
    own: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(**own)
    monkeypatch.setitem(configs.GROUNDING_DINO_CONFIGS, "mm_small", config)
    model = theirs(config)
    model.save_pretrained(tmp_path)
    transformers.GroundingDinoImageProcessor().save_pretrained(tmp_path)
    caplog.set_level(logging.WARNING)
    loaded = load(tmp_path)
    ours = [record.message for record in caplog.records if record.name.startswith("models")]
    assert (loaded.config, loaded.variant, ours) == (config, "mm_small", [])

    ids = torch.tensor([IDS])
    pixels, mask = torch.randn(1, 3, 96, 64), torch.ones(1, 96, 64, dtype=torch.bool)
    with torch.no_grad():
        wanted = model(pixel_values=pixels, input_ids=ids, pixel_mask=mask.long(), attention_mask=torch.ones_like(ids))
        # Each phrase attends to itself and counts its positions from its first token.
        phrase = torch.tensor([0, 1, 1, 1, 2, 2, 3])
        attends = (phrase[:, None] == phrase)[None]
        positions = torch.tensor([[0, 0, 1, 2, 0, 1, 0]])
        text = loaded.model.encode_text(ids, positions, attends)
        found = loaded.model(pixels, mask, text, torch.ones_like(ids, dtype=torch.bool), positions, attends)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes_cxcywh, wanted.pred_boxes, atol=1e-5, rtol=1e-4)
