"""Graphs of CLIP: image encoder and text encoder."""

import torch
from torch import Tensor, nn

from export.graph_spec import GraphSpec, mosaic
from models.clip.config import ClipConfig, EfficientNetTowerConfig, ResNetTowerConfig
from models.clip.model import Clip, unit_length
from models.registry import LoadedCheckpoint


class ClipImageEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> image_embeds [B, D], unit length."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        return unit_length(self.clip.encode_image(pixel_values))


class ClipTextEncoder(nn.Module):
    """input_ids [B, T] int64 -> text_embeds [B, D], unit length."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: Tensor) -> Tensor:
        return unit_length(self.clip.encode_text(input_ids))


def graphs(checkpoint: LoadedCheckpoint) -> tuple[GraphSpec, ...]:
    """Specifications of the image encoder and the text encoder."""
    model = checkpoint.model
    assert isinstance(model, Clip)
    return _image_encoder(model, model.config), _text_encoder(model, model.config)


def _image_encoder(model: Clip, config: ClipConfig) -> GraphSpec:
    size = config.image.image_size
    axes = {"pixel_values": {0: "batch"}, "image_embeds": {0: "batch"}}
    traced = (size, size)
    if isinstance(config.image, EfficientNetTowerConfig) or (
        isinstance(config.image, ResNetTowerConfig) and config.image.pool == "average"
    ):
        # The other towers have one learned position per cell: the size is theirs, not the trace's.
        axes["pixel_values"] |= {2: "height", 3: "width"}
        traced = (size + 32, size + 64)
    return GraphSpec(
        name="image_encoder",
        module=ClipImageEncoder(model).eval(),
        inputs={"pixel_values": mosaic(2, *traced)},
        canary={"pixel_values": mosaic(1, size, size)},
        axes=axes,
    )


def _text_encoder(model: Clip, config: ClipConfig) -> GraphSpec:
    return GraphSpec(
        name="text_encoder",
        module=ClipTextEncoder(model).eval(),
        inputs={"input_ids": _ids(config, batch=2, length=min(9, config.text.context_length))},
        canary={"input_ids": _ids(config, batch=1, length=min(6, config.text.context_length))},
        axes={"input_ids": {0: "batch", 1: "tokens"}, "text_embeds": {0: "batch"}},
    )


def _ids(config: ClipConfig, *, batch: int, length: int) -> Tensor:
    """Token ids [B, T] whose rows end with the largest id, as tokenised texts do."""
    ids = torch.arange(batch * length).reshape(batch, length) % (config.text.vocab_size - 1)
    ids[:, -1] = config.text.vocab_size - 1
    return ids
