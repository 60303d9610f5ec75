"""Feature pyramid (Lin et al. 2017) with the two extra levels of RetinaNet."""

import torch
from torch import Tensor, nn

from models.glip.config import GlipConfig
from models.layers.backbone import nearest


class FeaturePyramid(nn.Module):
    """Backbone maps [B, Ci, h, w] -> one map [B, C, h, w] per level, finest first.

    The extra levels are made from the last output, the second one after a ReLU (GLIP modeling/backbone/fpn.py).
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        inputs = [config.backbone.channels[stage] for stage in config.stages]
        width = config.channels
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in inputs)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in inputs)
        self.extra = nn.ModuleList(nn.Conv2d(width, width, 3, 2, padding=1) for _ in range(config.extra_levels))
        for conv in (*self.lateral, *self.output, *self.extra):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels: list[Tensor] = []
        above: Tensor | None = None
        for x, lateral, output in reversed(list(zip(maps, self.lateral, self.output, strict=True))):
            x = lateral(x)
            above = x if above is None else x + nearest(above, x.shape[2], x.shape[3])
            levels.insert(0, output(above))
        for number, conv in enumerate(self.extra):
            last = levels[-1]
            levels.append(conv(torch.relu(last) if number else last))
        return levels
