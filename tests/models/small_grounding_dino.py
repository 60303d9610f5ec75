"""Small Grounding DINOs with random weights, and inputs for them."""

from dataclasses import replace

import torch
from torch import Tensor

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.bert import BertConfig
from models.layers.resnet import ResNetConfig
from models.layers.swin import SwinConfig
from tests.models.shaking import shaken

TEXT = BertConfig(vocab_size=50, width=32, layers=2, heads=2, hidden=48, max_positions=16)
SWIN = GroundingDinoConfig(
    backbone=SwinConfig(embed_dim=8, depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=3),
    text=TEXT,
    d_model=64,
    heads=4,
    points=2,
    encoder_layers=2,
    decoder_layers=2,
    ffn_hidden=48,
    text_heads=2,
    text_ffn_hidden=40,
    fusion_heads=2,
    fusion_hidden=56,
    fusion_gamma_init=0.3,
    num_queries=20,
)
RESNET = GroundingDinoConfig(
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), width=4),
    text=TEXT,
    d_model=64,
    heads=2,
    levels=3,
    points=3,
    encoder_layers=1,
    decoder_layers=2,
    ffn_hidden=32,
    text_heads=2,
    text_ffn_hidden=32,
    fusion_heads=1,
    fusion_hidden=24,
    fusion_gamma_init=0.3,
    num_queries=10,
    logit_scale=0.125,
    logit_bias_init=-4.0,
)
MM_SWIN = replace(SWIN, own_box_heads=True, logit_scale=0.125, logit_bias_init=-4.0)


def random_model(config: GroundingDinoConfig, *, seed: int = 0) -> GroundingDino:
    """A model of this config with random weights, in eval mode."""
    torch.manual_seed(seed)
    return shaken(GroundingDino(config))


def random_inputs(batch: int, height: int, width: int, tokens: int, *, seed: int = 0) -> dict[str, Tensor]:
    """What `encode_text` and `forward` take; each row has less image and less text than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    pixel_mask = torch.ones(batch, height, width, dtype=torch.bool)
    text_mask = torch.ones(batch, tokens, dtype=torch.bool)
    for row in range(1, batch):
        pixel_mask[row, height - height * row // (2 * batch) :] = False
        pixel_mask[row, :, width - width * row // (3 * batch) :] = False
        text_mask[row, max(1, tokens - row) :] = False
    groups = (torch.arange(tokens) + 1) // 3  # [CLS], then labels of three
    pairs = (groups[:, None] == groups[None]) & text_mask[:, :, None] & text_mask[:, None, :]
    pixel_values = torch.randn(batch, 3, height, width, generator=generator)
    return {
        "pixel_values": pixel_values * pixel_mask[:, None],
        "pixel_mask": pixel_mask,
        "input_ids": torch.randint(0, TEXT.vocab_size, (batch, tokens), generator=generator) * text_mask,
        "position_ids": ((torch.arange(tokens) + 1) % 3).expand(batch, -1).contiguous(),
        "self_attention_mask": pairs | torch.eye(tokens, dtype=torch.bool),
        "text_mask": text_mask,
    }


def arguments(model: GroundingDino, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The arguments of `forward`, with the text encoded."""
    text = model.encode_text(inputs["input_ids"], inputs["position_ids"], inputs["self_attention_mask"])
    names = ("text_mask", "position_ids", "self_attention_mask")
    return (inputs["pixel_values"], inputs["pixel_mask"], text, *(inputs[name] for name in names))
