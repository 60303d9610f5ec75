"""Image-text fusion: bi-directional attention over one shared score matrix (GLIP)."""

import torch
from torch import Tensor, nn


class FusionLayer(nn.Module):
    """image [B, S, Ci], text [B, T, Ct], masks [B, S] and [B, T] bool (True = valid) -> both, fused.

    With no image mask the text attends to every position, as in GLIP. The residual starts from the normed inputs
    (GroundingDINO fuse_modules.py, GLIP utils/fuse_helper.py). GLIP clamps the scores at +-50000 for half precision;
    in float32 that changes nothing.
    """

    def __init__(self, image_dim: int, text_dim: int, hidden: int, heads: int, gamma_init: float) -> None:
        super().__init__()
        self.norm_image = nn.LayerNorm(image_dim)
        self.norm_text = nn.LayerNorm(text_dim)
        self.attention = FusionAttention(image_dim, text_dim, hidden, heads)
        self.gamma_image = nn.Parameter(torch.full((image_dim,), gamma_init))
        self.gamma_text = nn.Parameter(torch.full((text_dim,), gamma_init))

    def forward(
        self, image: Tensor, text: Tensor, image_mask: Tensor | None, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        image, text = self.norm_image(image), self.norm_text(text)
        image_delta, text_delta = self.attention(image, text, image_mask, text_mask)
        return image + self.gamma_image * image_delta, text + self.gamma_text * text_delta


class FusionAttention(nn.Module):
    """Attention of each side to the other: [B, S, Ci] and [B, T, Ct].

    There are thousands of image positions and tens of tokens, so every projection of the image side is moved to the
    text side: (W v).k = v.(W' k), and attention weights that sum to one pass a bias through unchanged. That replaces
    three Ci x hidden products per position by products with h * T columns.
    """

    def __init__(self, image_dim: int, text_dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden // heads) ** -0.5
        self.image_proj = nn.Linear(image_dim, hidden)
        self.text_proj = nn.Linear(text_dim, hidden)
        self.image_value_proj = nn.Linear(image_dim, hidden)
        self.text_value_proj = nn.Linear(text_dim, hidden)
        self.image_out_proj = nn.Linear(hidden, image_dim)
        self.text_out_proj = nn.Linear(hidden, text_dim)

    def forward(
        self, image: Tensor, text: Tensor, image_mask: Tensor | None, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores = self._scores(image, text)  # [B, h, T, S]
        to_text = scores.masked_fill(~text_mask[:, None, :, None], -torch.inf).softmax(2)
        if image_mask is not None:
            scores = scores.masked_fill(~image_mask[:, None, None, :], -torch.inf)
        return self._image_delta(to_text, text), self._text_delta(scores.softmax(3), image)

    def _scores(self, image: Tensor, text: Tensor) -> Tensor:
        keys = self._split(self.text_proj(text)) * self.scale  # [B, h, T, d]
        moved = keys @ self.image_proj.weight.reshape(self.heads, -1, image.shape[2])  # [B, h, T, Ci]
        constant = keys @ self.image_proj.bias.reshape(self.heads, -1, 1)  # [B, h, T, 1]
        return self._by_head(moved.flatten(1, 2) @ image.transpose(1, 2)) + constant

    def _image_delta(self, to_text: Tensor, text: Tensor) -> Tensor:
        values = self._split(self.text_value_proj(text))  # [B, h, T, d]
        outputs = self.image_out_proj.weight.shape[0]
        weight = self.image_out_proj.weight.reshape(outputs, self.heads, -1).permute(1, 2, 0)  # [h, d, Ci]
        moved = (values @ weight).flatten(1, 2)  # [B, h * T, Ci]
        return to_text.flatten(1, 2).transpose(1, 2) @ moved + self.image_out_proj.bias

    def _text_delta(self, to_image: Tensor, image: Tensor) -> Tensor:
        attended = self._by_head(to_image.flatten(1, 2) @ image)  # [B, h, T, Ci]
        weight = self.image_value_proj.weight.reshape(self.heads, -1, image.shape[2]).transpose(1, 2)  # [h, Ci, d]
        values = attended @ weight + self.image_value_proj.bias.reshape(self.heads, 1, -1)  # [B, h, T, d]
        return self.text_out_proj(values.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # [B, h, T, d]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2])  # [B, h * T, ...] -> [B, h, T, ...]
