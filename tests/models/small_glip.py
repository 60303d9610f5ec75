"""Small GLIPs with random weights, and inputs for them."""

from dataclasses import replace

import torch
from torch import Tensor

from models.glip import weights
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.layers.bert import BertConfig
from models.layers.resnet import ResNetConfig
from models.layers.swin import SwinConfig
from tests.models.shaking import shaken

TEXT = BertConfig(vocab_size=50, width=24, layers=2, heads=2, hidden=40, max_positions=32)
SWIN = GlipConfig(
    backbone=SwinConfig(embed_dim=8, depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=3),
    text=TEXT,
    channels=16,
    tower_layers=2,
    fusion_heads=2,
    fusion_hidden=24,
    norm_groups=4,
    candidates_per_level=12,
)
UNFUSED = replace(SWIN, fused=False)
RESNET = replace(SWIN, backbone=ResNetConfig(blocks=(1, 1, 1, 1), width=4), extra_levels=0, anchor_sizes=(32, 64, 128))


def random_model(config: GlipConfig, *, seed: int = 0) -> Glip:
    """A model of this config with random weights, in eval mode."""
    torch.manual_seed(seed)
    return shaken(Glip(config))


def random_inputs(batch: int, height: int, width: int, tokens: int, *, seed: int = 0) -> dict[str, Tensor]:
    """What `encode_text`, `forward` and `candidates` take; each row has less image and text than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    pixel_mask = torch.ones(batch, height, width, dtype=torch.bool)
    text_mask = torch.ones(batch, tokens, dtype=torch.bool)
    for row in range(1, batch):
        pixel_mask[row, height - height * row // (4 * batch) :] = False
        pixel_mask[row, :, width - width * row // (4 * batch) :] = False
        text_mask[row, max(1, tokens - row) :] = False
    pairs = text_mask[:, :, None] & text_mask[:, None, :]
    token_label = (torch.arange(tokens) - 1) // 3  # [CLS], then labels of two and a separator
    token_label[(torch.arange(tokens) - 1) % 3 == 2] = -1
    token_label[0] = -1
    return {
        "pixel_values": torch.randn(batch, 3, height, width, generator=generator) * pixel_mask[:, None],
        "pixel_mask": pixel_mask,
        "input_ids": torch.randint(0, TEXT.vocab_size, (batch, tokens), generator=generator) * text_mask,
        "position_ids": torch.arange(tokens).expand(batch, -1).contiguous(),
        "self_attention_mask": pairs | torch.eye(tokens, dtype=torch.bool),
        "text_mask": text_mask,
        "token_label": token_label.masked_fill(~text_mask, -1),
    }


def arguments(model: Glip, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `forward`, with the text encoded."""
    text = model.encode_text(inputs["input_ids"], inputs["position_ids"], inputs["self_attention_mask"])
    return inputs["pixel_values"], text, inputs["text_mask"]


def microsoft_tensors(model: Glip) -> dict[str, Tensor]:
    """The model's tensors as Microsoft names them."""
    state = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for key, source in weights.microsoft_table(model.config).items():
        pieces = state[key].split(1) if len(source.parts) > 1 else [state[key]]
        tensors |= {part[0]: piece.clone() for part, piece in zip(source.parts, pieces, strict=True)}
    return tensors
