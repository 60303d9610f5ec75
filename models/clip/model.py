"""CLIP (Radford et al. 2021): an image tower and a text tower that meet in one space."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.clip.config import ClipConfig
from models.clip.image_tower import build_image_tower
from models.clip.text_tower import TextTower


class ClipOutput(NamedTuple):
    """Unit-length embeddings and the scaled cosines between them."""

    image_embeds: Tensor  # [B, D]
    text_embeds: Tensor  # [N, D]
    logits_per_image: Tensor  # [B, N]
    logits_per_text: Tensor  # [N, B]


class Clip(nn.Module):
    """Both towers and `logit_scale`, the logarithm of the factor put on cosines."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower = build_image_tower(config.image, config.embed_dim)
        self.text_tower = TextTower(config.text, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # paper section 2.5

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> embeddings [B, D], not normalised."""
        return self.image_tower(pixel_values)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """[N, T] int64 with T up to the context length -> embeddings [N, D], not normalised."""
        return self.text_tower(input_ids)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> ClipOutput:
        """Pixels [B, 3, S, S] and ids [N, T] -> every image compared with every text."""
        image_embeds = unit_length(self.encode_image(pixel_values))
        text_embeds = unit_length(self.encode_text(input_ids))
        logits = self.logit_scale.exp() * image_embeds @ text_embeds.T  # [B, N]
        return ClipOutput(image_embeds, text_embeds, logits, logits.T)


def unit_length(x: Tensor) -> Tensor:
    """Rows [..., D] divided by their L2 norm (no epsilon, as the official code)."""
    return x / x.norm(dim=-1, keepdim=True)
