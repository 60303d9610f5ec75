"""The pre-norm transformer that both CLIP towers are made of (openai/CLIP clip/model.py)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that the published weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": functional.gelu}


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T, C]; `mask` [T, T] is True where a row may look at a column."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B, T, 3, heads, C / heads]
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, C / heads]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))  # [B, T, C]


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward of four times the width, each on the normalised sum so far."""

    def __init__(self, width: int, heads: int, activation: str, *, residual_std: float) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; accepted are {sorted(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        nn.init.normal_(self.attention.qkv.weight, std=width**-0.5)
        nn.init.zeros_(self.attention.qkv.bias)
        nn.init.normal_(self.attention.output.weight, std=residual_std)
        nn.init.zeros_(self.attention.output.bias)
        nn.init.normal_(self.expand.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.contract.weight, std=residual_std)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.contract(self.activation(self.expand(self.norm2(x))))


class Transformer(nn.Module):
    """A stack of blocks, initialised as the published models were."""

    def __init__(self, width: int, layers: int, heads: int, *, activation: str = "quick_gelu") -> None:
        super().__init__()
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, activation, residual_std=residual_std) for _ in range(layers)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]; `mask` [T, T] is True where a row may look at a column."""
        for block in self.blocks:
            x = block(x, mask)
        return x
