"""Transformer blocks of the detectors: attention, feed-forward, MLP.

Shape letters: B batch, Q queries, K keys, C channels, h heads, d channels of a head. Axes are split with reshape and
the tensor's own sizes: torch.jit.trace records the sizes inside an unflatten as constants.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATION_MODULES = {"relu": nn.ReLU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head attention with separate projections.

    query [B, Q, C], key and value [B, K, C]; mask bool, broadcastable to [B, h, Q, K], True where a query may attend,
    for each query at least once. Returns [B, Q, C].
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention width {dim} is not a multiple of its {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            self._split(projection(x))
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, h, Q, d]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # [B, h, Q, d]


class FeedForward(nn.Module):
    """Two linear layers with an activation between them: [..., C] -> [..., C]."""

    def __init__(self, dim: int, hidden: int, *, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.activation = ACTIVATION_MODULES[activation]()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Mlp(nn.Module):
    """Linear layers of the given widths with ReLU between them: [..., widths[0]] -> [..., widths[-1]]."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)
