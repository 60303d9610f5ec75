"""Specification of a graph that a family exports."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GraphSpec:
    """One part of a bundle before it is traced: `module`, called with tensors named and ordered as `inputs`.

    inputs: to trace with. canary: inputs of the small case that a server runs before it is ready, less those that an
    earlier part puts out. axes: for each input, then for each output in the module's order, the dynamic dimensions and
    what they count. A detector's module also has `with_rank_decided` (`export.certificate.reference`).
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    canary: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the module's outputs, in its order."""
        return tuple(name for name in self.axes if name not in self.inputs)

    def arguments(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The module's inputs among `tensors`, in its order."""
        return tuple(tensors[name] for name in self.inputs)


def mosaic(batch: int, height: int, width: int) -> Tensor:
    """Pixel values [B, 3, H, W] of coloured 8 px cells in -1.5..1.5: no two alike, yet small once compressed."""
    cells = -(-max(height, width) // 8)
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(batch, 3, cells, cells, generator=generator) * 3 - 1.5
    return colours.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width].contiguous()
