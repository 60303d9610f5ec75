"""Graphs that all detectors share: image encoder, text encoder, and the specification of all three parts.

The image encoder's outputs, `image_features_0` and so on from the finest level, are inputs of the detector by the same
names. The height and width of a level are those of the input over its stride, rounded up; its axes are named by that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from export.graph_spec import GraphSpec, mosaic
from models.layers.bert import BertConfig

TOKEN_AXES = {0: "batch", 1: "tokens"}
AXES = {
    "pixel_values": {0: "batch", 2: "height", 3: "width"},
    "pixel_mask": {0: "batch", 1: "height", 2: "width"},
    "input_ids": TOKEN_AXES,
    "position_ids": TOKEN_AXES,
    "self_attention_mask": TOKEN_AXES | {2: "tokens"},
    "text_features": TOKEN_AXES,
    "text_mask": TOKEN_AXES,
    "token_label": TOKEN_AXES,
    "token_scores": {0: "batch", 1: "queries", 2: "tokens"},
    "boxes": {0: "batch", 1: "queries"},
}
TEXT_INPUTS = ("input_ids", "position_ids", "self_attention_mask")


class DetectorImageEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> image_features_0.., [B, C, h, w] each."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.encode_image(pixel_values))


class DetectorTextEncoder(nn.Module):
    """input_ids, position_ids [B, T] int64, self_attention_mask [B, T, T] bool -> text_features [B, T, C]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor, self_attention_mask: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(input_ids, position_ids, self_attention_mask)
        return features


def detector_graphs(
    model: Any,
    detector: nn.Module,
    traced: Mapping[str, Tensor],
    canary: Mapping[str, Tensor],
    *,
    inputs: Sequence[str],
) -> tuple[GraphSpec, ...]:
    """Specifications of the image encoder, the text encoder and `detector`.

    traced, canary: inputs of all three but the image features; inputs: names of the detector's inputs before those.
    """
    with torch.inference_mode():
        levels = model.encode_image(traced["pixel_values"])
    features = {f"image_features_{level}": x for level, x in enumerate(levels)}
    config = model.config
    strides = (*config.strides, config.strides[config.words_level]) if config.words else config.strides
    level_axes: dict[str, Mapping[int, str]] = {
        name: {0: "batch", 2: f"height_{stride}", 3: f"width_{stride}"}
        for name, stride in zip(features, strides, strict=True)
    }
    traced = {**traced, **features}

    def spec(name: str, module: nn.Module, takes: Sequence[str], axes: Mapping[str, Mapping[int, str]]) -> GraphSpec:
        return GraphSpec(
            name=name,
            module=module.eval(),
            inputs={name: traced[name] for name in takes},
            canary={name: canary[name] for name in takes if name in canary},
            axes={**_axes(*(name for name in takes if name in AXES)), **axes},
        )

    answers = level_axes | _axes("token_scores", "boxes")
    return (
        spec("image_encoder", DetectorImageEncoder(model), ("pixel_values",), level_axes),
        spec("text_encoder", DetectorTextEncoder(model), TEXT_INPUTS, _axes("text_features")),
        spec("detector", detector, (*inputs, *features), answers),
    )


def _axes(*names: str) -> dict[str, Mapping[int, str]]:
    return {name: AXES[name] for name in names}


def text_inputs(text: BertConfig, *, batch: int, length: int, group: int) -> dict[str, Tensor]:
    """Tokens in groups whose positions restart and which see their own group only."""
    order = torch.arange(length)
    groups = order // group
    return {
        "input_ids": (torch.arange(batch * length).reshape(batch, length) * 7) % text.vocab_size,
        "position_ids": (order % group).expand(batch, length).clone(),
        "self_attention_mask": (groups[:, None] == groups).expand(batch, length, length).clone(),
    }


def detector_inputs(*, batch: int, height: int, width: int, length: int, channels: int) -> dict[str, Tensor]:
    """A batch whose images leave an eighth of the canvas empty, and whose last row has a token of padding."""
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[:, : height - height // 8, : width - width // 8] = True
    text_mask = torch.ones(batch, length, dtype=torch.bool)
    text_mask[-1, -1] = False
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": mosaic(batch, height, width) * mask[:, None],
        "pixel_mask": mask,
        "text_features": torch.randn(batch, length, channels, generator=generator),
        "text_mask": text_mask,
    }
