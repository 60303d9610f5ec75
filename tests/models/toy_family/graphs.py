"""Graphs of the toy family, as `export/<family>.py` holds them."""

import torch
from torch import Tensor, nn

from export.graph_spec import GraphSpec, mosaic
from models.registry import LoadedCheckpoint
from tests.models.toy_family.model import Toy


class ImageGraph(nn.Module):
    def __init__(self, model: Toy) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class TextGraph(nn.Module):
    def __init__(self, model: Toy) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.encode_text(input_ids)


def graphs(checkpoint: LoadedCheckpoint) -> tuple[GraphSpec, ...]:
    assert isinstance(checkpoint.model, Toy)
    batch = {0: "batch"}
    return (
        GraphSpec(
            name="image_encoder",
            module=ImageGraph(checkpoint.model).eval(),
            inputs={"pixel_values": mosaic(2, 16, 16)},
            canary={"pixel_values": mosaic(1, 16, 16)},
            axes={"pixel_values": batch, "image_embeds": batch},
        ),
        GraphSpec(
            name="text_encoder",
            module=TextGraph(checkpoint.model).eval(),
            inputs={"input_ids": torch.tensor([[2, 5, 6], [2, 7, 0]])},
            canary={"input_ids": torch.tensor([[2, 8]])},
            axes={"input_ids": {0: "batch", 1: "tokens"}, "text_embeds": batch},
        ),
    )
