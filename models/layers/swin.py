"""Swin Transformer (Liu et al. 2021), a backbone of detectors.

Maps are [B, H, W, C]. A block pads its map to whole windows after the first norm, and a shifted block shifts even a map
of a single window (GroundingDINO backbone/swin_transformer.py, which GLIP shares).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.blocks import FeedForward
from models.layers.configs import SwinConfig

PATCH = 4
MASKED = -100.0  # added to the score of a pair from different regions; the published weights were trained with it


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each relative position.

    windows [B, n, N, C] with N = window * window; mask [n, 1, N, N] added to the scores, or None. Returns [B, n, N, C].
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        batch, count, positions, _ = windows.shape
        qkv = self.qkv(windows).reshape(batch, count, positions, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # [B, n, h, N, d]
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # [h, N, N]
        scores = (q * self.scale) @ k.transpose(3, 4) + (bias if mask is None else bias + mask)  # [B, n, h, N, N]
        mixed = scores.softmax(4) @ v  # [B, n, h, N, d]
        return self.proj(mixed.transpose(2, 3).flatten(3))


class SwinBlock(nn.Module):
    """Pre-norm window attention and feed-forward; [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio * dim, activation="gelu")

    def forward(self, x: Tensor, shift_mask: Tensor) -> Tensor:
        height, width = x.shape[1], x.shape[2]
        y = pad_to_multiple(self.norm1(x), self.window)
        padded_height, padded_width = y.shape[1], y.shape[2]
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
        y = self.attn(to_windows(y, self.window), shift_mask if self.shift else None)
        y = from_windows(y, self.window, padded_height, padded_width)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + y[:, :height, :width]
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Merge of 2 x 2 positions: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), 2C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, 2)
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(corners, 3)))


class SwinStage(nn.Module):
    """Blocks of one resolution, every second one shifted by half a window."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, window // 2 if i % 2 else 0, mlp_ratio) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        shift_mask = shifted_window_mask(x, self.window)
        for block in self.blocks:
            x = block(x, shift_mask)
        return x


class Swin(nn.Module):
    """Swin backbone: pixel_values [B, 3, H, W] -> normed maps [B, C, h, w] of `stages` (0 has stride 4)."""

    def __init__(self, config: SwinConfig, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, config.embed_dim, PATCH, PATCH)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        sizes = zip(config.channels, config.depths, config.heads, strict=True)
        self.stages = nn.ModuleList(SwinStage(c, depth, h, config.window, config.mlp_ratio) for c, depth, h in sizes)
        self.merges = nn.ModuleList(PatchMerging(c) for c in config.channels[:-1])
        self.norms = nn.ModuleDict({str(i): nn.LayerNorm(config.channels[i]) for i in stages})
        self.apply(_initialise)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        patches = pixel_values.permute(0, 2, 3, 1)
        patches = self.patch_embed(pad_to_multiple(patches, PATCH).permute(0, 3, 1, 2))
        x = self.patch_norm(patches.permute(0, 2, 3, 1))  # [B, H/4, W/4, C]
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(self.merges[i - 1](x) if i else x)
            if str(i) in self.norms:
                maps.append(self.norms[str(i)](x).permute(0, 3, 1, 2))
        return maps


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad [B, H, W, C] with zeros at bottom and right to multiples; never skipped, so that it can be traced."""
    bottom = (multiple - x.shape[1] % multiple) % multiple
    right = (multiple - x.shape[2] % multiple) % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def to_windows(x: Tensor, window: int) -> Tensor:
    """Split [B, H, W, C] into windows [B, n, window * window, C]; H and W are multiples of the window."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Join windows to [B, H, W, C]: the inverse of `to_windows`."""
    x = windows.reshape(windows.shape[0], height // window, width // window, window, window, windows.shape[3])
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # [B, H, W, C]


def shifted_window_mask(x: Tensor, window: int) -> Tensor:
    """[n, 1, N, N]: MASKED where two positions of a shifted window come from different regions.

    A shift leaves three bands per axis: unmoved, the near part of the last window, and the part wrapped around.
    """
    rows, columns = (
        _bands(size + (window - size % window) % window, window, x.device) for size in (x.shape[1], x.shape[2])
    )
    region = (3 * rows[:, None] + columns[None, :])[None, :, :, None]  # [1, H, W, 1]
    region = to_windows(region, window)[0, :, :, 0]  # [n, N]
    differ = region[:, :, None] != region[:, None, :]
    return (differ.to(x.dtype) * MASKED)[:, None]


def _bands(size: int, window: int, device: torch.device) -> Tensor:
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - window // 2).long()


def relative_position_index(window: int) -> Tensor:
    """[N, N] int64: row of the bias table for each pair, (dy + w - 1) * (2w - 1) + (dx + w - 1)."""
    position = torch.arange(window * window)
    y, x = position // window, position % window
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
