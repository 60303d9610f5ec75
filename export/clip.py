"""CLIP as a bundle: its two graphs and how OpenAI's code serves it."""

from typing import Any

import torch
from torch import Tensor, nn

from export.graph_spec import Part, mosaic
from export.manifest_defaults import ManifestDefaults
from models.clip.config import ClipConfig, VisionTransformerConfig
from models.clip.model import Clip, unit_length
from models.registry import LoadedCheckpoint
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, ClassificationRules, Preprocessing

# openai/CLIP clip/clip.py `_transform`
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """pixel_values [B, 3, H, W] -> image_embeds [B, D], unit length."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        return unit_length(self.clip.encode_image(pixel_values))


class TextEncoder(nn.Module):
    """input_ids [B, T] int64 -> text_embeds [B, D], unit length."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: Tensor) -> Tensor:
        return unit_length(self.clip.encode_text(input_ids))


def parts(checkpoint: LoadedCheckpoint) -> tuple[Part, ...]:
    """The image encoder and the text encoder."""
    config: ClipConfig = checkpoint.config
    model: Any = checkpoint.model
    return (_image_encoder(model, config), _text_encoder(model, config))


def rules(checkpoint: LoadedCheckpoint) -> ManifestDefaults:
    """What openai/CLIP does; labels are compared as they are written, without a template."""
    config: ClipConfig = checkpoint.config
    model: Any = checkpoint.model
    return ManifestDefaults(
        preprocessing=Preprocessing(
            resize="shorter_crop",
            shorter=config.image.image_size,
            resample="bicubic",
            rgb_after_resize=True,
            mean=MEAN,
            std=STD,
        ),
        text=text_rules(checkpoint.tokenizer_file, "sentence", max_tokens=config.text.context_length),
        classification=ClassificationRules(logit_scale=model.logit_scale.exp().item()),
        buckets=Buckets(max_batch=16),
    )


def _image_encoder(model: Clip, config: ClipConfig) -> Part:
    size = config.image.image_size
    axes = {"pixel_values": {0: "batch"}, "image_embeds": {0: "batch"}}
    traced = (size, size)
    if not isinstance(config.image, VisionTransformerConfig) and config.image.pool == "average":
        # The other towers have one learned position per cell: the size is theirs, not the trace's.
        axes["pixel_values"] |= {2: "height", 3: "width"}
        traced = (size + 32, size + 64)
    return Part(
        name="image_encoder",
        module=ImageEncoder(model).eval(),
        inputs={"pixel_values": mosaic(2, *traced)},
        canary={"pixel_values": mosaic(1, size, size)},
        axes=axes,
    )


def _text_encoder(model: Clip, config: ClipConfig) -> Part:
    return Part(
        name="text_encoder",
        module=TextEncoder(model).eval(),
        inputs={"input_ids": _ids(config, batch=2, length=min(9, config.text.context_length))},
        canary={"input_ids": _ids(config, batch=1, length=min(6, config.text.context_length))},
        axes={"input_ids": {0: "batch", 1: "tokens"}, "text_embeds": {0: "batch"}},
    )


def _ids(config: ClipConfig, *, batch: int, length: int) -> Tensor:
    """Rows of ids that end with the largest id, as texts do."""
    ids = torch.arange(batch * length).reshape(batch, length) % (config.text.vocab_size - 1)
    ids[:, -1] = config.text.vocab_size - 1
    return ids
