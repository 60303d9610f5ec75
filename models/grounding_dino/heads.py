"""What turns a query into token logits and a box."""

import torch
from torch import Tensor, nn

BOX_EPS = 1e-3  # GroundingDINO util/misc.py has it; the 1e-5 of util.inverse_sigmoid elsewhere is not the model's


def inverse_sigmoid(x: Tensor) -> Tensor:
    """logit(x), with both x and 1 - x clamped at 1e-3."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=BOX_EPS) / (1 - x).clamp(min=BOX_EPS))


class TokenLogits(nn.Module):
    """queries [B, N, C], text [B, T, C], text_mask [B, T] bool -> [B, N, T], -inf on padded tokens."""

    def __init__(self, scale: float, bias_init: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.bias = None if bias_init is None else nn.Parameter(torch.tensor(bias_init))

    def forward(self, queries: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        logits = queries @ (text * self.scale).transpose(1, 2)
        if self.bias is not None:
            logits = logits + self.bias
        return logits.masked_fill(~text_mask[:, None, :], -torch.inf)
