"""GLIP (arXiv 2112.03857), in the order of the paper's figure 2.

Every size comes from the tensors, so that a trace serves any batch, image and prompt. There is no image mask: padding
takes part in attention, norms and pooling, as in the published code, so the padded size of an image must depend on its
own size only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.glip.config import GlipConfig
from models.glip.fpn import FeaturePyramid
from models.glip.heads import BoxHead, TokenAlignment, cell_anchors, decode_boxes, grid_anchors
from models.glip.vl_dyhead import TowerLayer, flatten_levels
from models.layers.backbone import build_backbone, word_maps
from models.layers.bert import Bert
from models.layers.word_scores import WordScores, at_points


class GlipOutput(NamedTuple):
    """Outputs at each of the S positions of all levels.

    token_logits [B, S, T] (before the sigmoid, -inf on padded tokens); boxes_xyxy [B, S, 4] and anchors_xyxy [S, 4] in
    pixels of the padded image, ends included; centerness [B, S] logits; level_sizes: positions of each level.
    """

    token_logits: Tensor
    boxes_xyxy: Tensor
    centerness: Tensor
    anchors_xyxy: Tensor
    level_sizes: list[int]


class Glip(nn.Module):
    """Open-set detector.

    Before fusion the text depends on the prompt only and the levels on the image only: `encode_text` and `encode_image`
    are separate, so that a prompt is encoded once for many images, and an image once for many prompts.
    """

    cell_anchors: Tensor

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_backbone = Bert(config.text)
        self.backbone = build_backbone(config.backbone, config.stages)
        self.pyramid = FeaturePyramid(config)
        self.tower = nn.ModuleList(TowerLayer(config) for _ in range(config.tower_layers))
        self.box_head = BoxHead(config)
        self.token_alignment = TokenAlignment(config)
        self.word_scores = WordScores(config.text.width, config.words) if config.words else None
        self.register_buffer("cell_anchors", cell_anchors(config.anchor_sizes, config.strides))

    def encode_text(self, input_ids: Tensor, position_ids: Tensor, self_attention_mask: Tensor) -> Tensor:
        """input_ids, position_ids [B, T] int64, self_attention_mask [B, T, T] bool -> text_features [B, T, W]."""
        return self.text_backbone(input_ids, position_ids, self_attention_mask)

    def forward(self, pixel_values: Tensor, text_features: Tensor, text_mask: Tensor) -> GlipOutput:
        """Detect in pixel_values [B, 3, H, W]; text inputs as `detect`."""
        return self.detect(self.encode_image(pixel_values), text_features, text_mask)

    def encode_image(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values [B, 3, H, W], normalised (published weights read BGR), zeros on padding -> levels of the feature
        pyramid, [B, C, h, w] each; with words, also their map [B, words, h, w] on the level `words_level`.
        """
        maps = self.backbone(pixel_values)
        return [*self.pyramid(maps), *word_maps(self.backbone, maps)]

    def detect(self, image_features: Sequence[Tensor], text_features: Tensor, text_mask: Tensor) -> GlipOutput:
        """Detect in image_features of `encode_image`, by text_features [B, T, W] and text_mask [B, T] bool."""
        count = len(self.config.strides)
        levels, words, text = list(image_features[:count]), image_features[count:], text_features
        for layer in self.tower:
            levels, text = layer(levels, text, text_mask)
        deltas, centerness = self.box_head(levels)
        anchors = torch.cat(
            [
                grid_anchors(self.cell_anchors[number], x.shape[2], x.shape[3], stride)
                for number, (x, stride) in enumerate(zip(levels, self.config.strides, strict=True))
            ]
        )
        logits = self.token_alignment(flatten_levels(levels), text, text_mask)
        if self.word_scores is not None:
            stride = self.config.strides[self.config.words_level]
            y, x = (torch.ones_like(words[0][0, 0]).sum(axis).amax() * stride for axis in (0, 1))
            size = torch.stack((x, y))
            points = ((anchors[:, :2] + anchors[:, 2:] + 1) / 2 / size).expand(words[0].shape[0], -1, -1)
            logits = logits + at_points(self.word_scores.maps(words[0], text_features), points)
        return GlipOutput(
            token_logits=logits,
            boxes_xyxy=decode_boxes(flatten_levels(deltas), anchors),
            centerness=flatten_levels(centerness)[:, :, 0],
            anchors_xyxy=anchors,
            level_sizes=[x.shape[2] * x.shape[3] for x in levels],
        )
