"""What a family hands to the exporter for each of its graphs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """One graph to be: `module` called with tensors named as `inputs`, in that order.

    inputs: what it is traced with; canary: the small case that a server runs before it is ready, less those inputs that
    are outputs of a part before; axes: for each input, then each output, its dimensions that may change and what they
    count. An output's order is the module's.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    canary: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what the module returns."""
        return tuple(name for name in self.axes if name not in self.inputs)

    def arguments(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Those of `tensors` that the module takes, in its order."""
        return tuple(tensors[name] for name in self.inputs)


def mosaic(batch: int, height: int, width: int) -> Tensor:
    """pixel_values [B, 3, H, W] of coloured cells, -1.5 to 1.5: no two are alike, yet a file of them is small."""
    cells = -(-max(height, width) // 8)
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(batch, 3, cells, cells, generator=generator) * 3 - 1.5
    return colours.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width].contiguous()
