"""Token logits from what a backbone reads in a picture: the map of words that classifiers put there, against the text.

Whatever the layers between learn from few objects, this path keeps what the backbone's classes know of others (compare
Kuo et al. 2022, "F-VLM", which multiplies the scores of a frozen model into those of a detector).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNSURE = 0.2  # length of a cell's embedding below which its direction counts less
SCALE_INIT = 4.0  # of 2.3, 4, 6 and 12 the one by which a trained detector found and named most on held-out pictures
SPREAD = (-0.3, 0.0, 0.3)  # samples of a box, in widths and heights from its centre


class WordScores(nn.Module):
    """Dot products of cells and tokens, times a scale, as maps that are sampled at points or in boxes."""

    def __init__(self, text_width: int, words: int) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, words)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE_INIT)))

    def maps(self, words: Tensor, text: Tensor) -> Tensor:
        """Map of words [B, D, h, w] and text features [B, T, C] -> logits [B, T, h, w]."""
        cells = words / (words.square().sum(1, keepdim=True) + UNSURE**2).sqrt()
        tokens = F.normalize(self.text(text), dim=2) * self.log_scale.exp()
        logits = tokens @ cells.flatten(2)  # [B, T, h * w]
        return logits.reshape(logits.shape[0], logits.shape[1], words.shape[2], words.shape[3])


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps [B, T, h, w] at points [B, N, 2] (x, y) in 0..1 of the map -> [B, N, T]."""
    found = F.grid_sample(maps, (2 * points - 1)[:, None], padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def in_boxes(maps: Tensor, boxes_cxcywh: Tensor) -> Tensor:
    """Average samples of maps [B, T, h, w] in boxes [B, N, 4] in 0..1 of the map -> [B, N, T]."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    places = torch.tensor([(x, y) for x in SPREAD for y in SPREAD], dtype=maps.dtype, device=maps.device)
    points = centre[:, :, None] + size[:, :, None] * places  # [B, N, 9, 2]
    found = F.grid_sample(maps, 2 * points - 1, padding_mode="border", align_corners=False)  # [B, T, N, 9]
    return found.mean(3).transpose(1, 2)
