"""What the graphs of all detectors have alike."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from export.parts import Part, mosaic
from models.layers.bert import BertConfig

TOKENS = {0: "batch", 1: "tokens"}
PAIRS = TOKENS | {2: "tokens"}
PIXELS = {
    "pixel_values": {0: "batch", 2: "height", 3: "width"},
    "pixel_mask": {0: "batch", 1: "height", 2: "width"},
}
ANSWERS = {"token_scores": {0: "batch", 1: "queries", 2: "tokens"}, "boxes": {0: "batch", 1: "queries"}}
PROMPT_NAMES = ("input_ids", "position_ids", "self_attention_mask")


class TextEncoder(nn.Module):
    """input_ids, position_ids [B, T] int64, self_attention_mask [B, T, T] bool -> text_features [B, T, C]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor, self_attention_mask: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(input_ids, position_ids, self_attention_mask)
        return features


def text_encoder(model: Any, traced: Mapping[str, Tensor], canary: Mapping[str, Tensor]) -> Part:
    """The part that depends on the prompt alone, of prompts as `prompt` makes them."""
    return Part(
        name="text_encoder",
        module=TextEncoder(model).eval(),
        inputs={name: traced[name] for name in PROMPT_NAMES},
        canary={name: canary[name] for name in PROMPT_NAMES},
        axes={"input_ids": TOKENS, "position_ids": TOKENS, "self_attention_mask": PAIRS, "text_features": TOKENS},
    )


def prompt(text: BertConfig, *, batch: int, length: int, group: int) -> dict[str, Tensor]:
    """Tokens in groups whose positions restart and which see their own group only."""
    order = torch.arange(length)
    groups = order // group
    return {
        "input_ids": (torch.arange(batch * length).reshape(batch, length) * 7) % text.vocab_size,
        "position_ids": (order % group).expand(batch, length).clone(),
        "self_attention_mask": (groups[:, None] == groups).expand(batch, length, length).clone(),
    }


def detector_inputs(*, batch: int, height: int, width: int, length: int, channels: int) -> dict[str, Tensor]:
    """A batch whose images leave an eighth of the canvas empty, and whose last row has a token of padding."""
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[:, : height - height // 8, : width - width // 8] = True
    text_mask = torch.ones(batch, length, dtype=torch.bool)
    text_mask[-1, -1] = False
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": mosaic(batch, height, width) * mask[:, None],
        "pixel_mask": mask,
        "text_features": torch.randn(batch, length, channels, generator=generator),
        "text_mask": text_mask,
    }
