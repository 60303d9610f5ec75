"""The neck, which brings the maps of the backbone to one width."""

from typing import cast

from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig

GROUPS = 32


class Neck(nn.Module):
    """Backbone maps -> `levels` maps [B, d_model, h, w]; what the backbone lacks is made by stride-2 convolutions.

    The first of those reads the last backbone map itself, not its projection (GroundingDINO groundingdino.py).
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        channels = [config.backbone.channels[stage] for stage in config.stages]
        self.lateral = nn.ModuleList(_project(c, config.d_model, kernel=1, stride=1) for c in channels)
        extra = config.levels - len(channels)
        inputs = [channels[-1], *[config.d_model] * extra][:extra]
        self.extra = nn.ModuleList(_project(c, config.d_model, kernel=3, stride=2) for c in inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [project(x) for project, x in zip(self.lateral, maps, strict=True)]
        last = maps[-1]
        for project in self.extra:
            last = project(last)
            levels.append(last)
        return levels


def _project(inputs: int, outputs: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs))
