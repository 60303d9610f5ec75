"""Text tower of CLIP: token ids to one vector in the shared space."""

import torch
from torch import Tensor, nn

from models.clip.config import TextConfig
from models.clip.transformer import Transformer


class TextTower(nn.Module):
    """Causal transformer whose state at the end-of-text token is the answer.

    That token is the largest id of the vocabulary, so it is found by argmax (openai/CLIP clip/model.py
    `encode_text`). What follows it is never seen, because of the causal mask: rows may be padded or cut there freely.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.context_length, config.width) * 0.01)
        self.transformer = Transformer(config.width, config.layers, config.heads, activation=config.activation)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embed_dim, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.projection.weight, std=config.width**-0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, T] int64 with T up to context_length -> [B, embed_dim]."""
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions[:length]  # [B, T, C]
        order = torch.arange(length, device=x.device)
        causal = order[:, None] >= order[None]  # [T, T]
        x = self.norm(self.transformer(x, causal))
        end = input_ids.argmax(dim=-1)  # [B]
        at_end = x[torch.arange(x.shape[0], device=x.device), end]  # [B, C]
        return self.projection(at_end)
