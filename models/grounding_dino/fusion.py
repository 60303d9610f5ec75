"""Image-text fusion: each side attends to the other over one shared score matrix (GLIP's bi-directional attention)."""

import torch
from torch import Tensor, nn


class FusionLayer(nn.Module):
    """image [B, S, C], text [B, T, C], masks [B, S] and [B, T] bool (True = valid) -> both, fused.

    The residual starts from the normed inputs (GroundingDINO fuse_modules.py).
    """

    def __init__(self, dim: int, hidden: int, heads: int, gamma_init: float) -> None:
        super().__init__()
        self.norm_image = nn.LayerNorm(dim)
        self.norm_text = nn.LayerNorm(dim)
        self.attention = FusionAttention(dim, hidden, heads)
        self.gamma_image = nn.Parameter(torch.full((dim,), gamma_init))
        self.gamma_text = nn.Parameter(torch.full((dim,), gamma_init))

    def forward(self, image: Tensor, text: Tensor, image_mask: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        image, text = self.norm_image(image), self.norm_text(text)
        image_delta, text_delta = self.attention(image, text, image_mask, text_mask)
        return image + self.gamma_image * image_delta, text + self.gamma_text * text_delta


class FusionAttention(nn.Module):
    """The two attentions, [B, S, C] and [B, T, C].

    There are thousands of image positions and tens of tokens, so every projection of the image side is moved to the
    text side, which matrix products allow: (W v).k = v.(W' k), and attention weights that sum to one carry a bias
    through unchanged. That replaces three C x hidden products per position by products with h * T columns.
    """

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden // heads) ** -0.5
        self.image_proj = nn.Linear(dim, hidden)
        self.text_proj = nn.Linear(dim, hidden)
        self.image_value_proj = nn.Linear(dim, hidden)
        self.text_value_proj = nn.Linear(dim, hidden)
        self.image_out_proj = nn.Linear(hidden, dim)
        self.text_out_proj = nn.Linear(hidden, dim)

    def forward(self, image: Tensor, text: Tensor, image_mask: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = self._scores(image, text)  # [B, h, T, S]
        to_text = scores.masked_fill(~text_mask[:, None, :, None], -torch.inf).softmax(2)
        to_image = scores.masked_fill(~image_mask[:, None, None, :], -torch.inf).softmax(3)
        return self._image_delta(to_text, text), self._text_delta(to_image, image)

    def _scores(self, image: Tensor, text: Tensor) -> Tensor:
        keys = self._split(self.text_proj(text)) * self.scale  # [B, h, T, d]
        moved = keys @ self.image_proj.weight.reshape(self.heads, -1, image.shape[2])  # [B, h, T, C]
        constant = keys @ self.image_proj.bias.reshape(self.heads, -1, 1)  # [B, h, T, 1]
        return self._by_head(moved.flatten(1, 2) @ image.transpose(1, 2)) + constant

    def _image_delta(self, to_text: Tensor, text: Tensor) -> Tensor:
        values = self._split(self.text_value_proj(text))  # [B, h, T, d]
        weight = self.image_out_proj.weight.reshape(text.shape[2], self.heads, -1).permute(1, 2, 0)  # [h, d, C]
        moved = (values @ weight).flatten(1, 2)  # [B, h * T, C]
        return to_text.flatten(1, 2).transpose(1, 2) @ moved + self.image_out_proj.bias

    def _text_delta(self, to_image: Tensor, image: Tensor) -> Tensor:
        seen = self._by_head(to_image.flatten(1, 2) @ image)  # [B, h, T, C]
        weight = self.image_value_proj.weight.reshape(self.heads, -1, image.shape[2]).transpose(1, 2)  # [h, C, d]
        values = seen @ weight + self.image_value_proj.bias.reshape(self.heads, 1, -1)  # [B, h, T, d]
        return self.text_out_proj(values.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # [B, h, T, d]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2])  # [B, h * T, ...] -> [B, h, T, ...]
