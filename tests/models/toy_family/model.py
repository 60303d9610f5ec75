"""Toy model: linear embeddings of the mean colour and of the mean token."""

import torch
from torch import Tensor, nn

from tests.models.toy_family.config import ToyConfig


class Toy(nn.Module):
    """pixel_values [B, 3, S, S] and input_ids [B, T] int64 (0 is padding) -> embeddings [B, D] of unit length."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.colours = nn.Linear(3, config.embed_dim)
        self.tokens = nn.Embedding(config.vocab_size, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        x = self.colours(pixel_values.mean((2, 3)))
        return x / x.norm(dim=1, keepdim=True)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        x = (self.tokens(input_ids) * (input_ids != 0)[:, :, None]).sum(1)
        return x / x.norm(dim=1, keepdim=True)
