"""Grounding DINO (arXiv 2303.05499), in the order of the paper's figure 3.

Every size comes from the tensors and every mask is an input, so that a trace serves any batch, image and prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.decoder import Decoder, DecoderOutput, inverse_sigmoid
from models.grounding_dino.deformable import DeformableAttention
from models.grounding_dino.encoder import Encoder
from models.grounding_dino.feature_levels import FeatureLevels, Neck, level_geometry, level_mask
from models.grounding_dino.position_encoding import ImagePosition
from models.grounding_dino.query_selection import QuerySelection, TokenLogits
from models.layers.backbone import build_backbone, word_maps
from models.layers.bert import Bert
from models.layers.blocks import Mlp
from models.layers.word_scores import WordScores, at_points, in_boxes


class DenoisingQueries(NamedTuple):
    """Denoising queries of training, put before the learned ones (DINO, arXiv 2203.03605, section 3.3).

    content [B, Q, d_model]; boxes_cxcywh [B, Q, 4] in 0..1; visible [B, Q, Q] bool, True where one may attend to
    another. They attend to the learned queries too, which attend to none of them.
    """

    content: Tensor
    boxes_cxcywh: Tensor
    visible: Tensor


class DenoisedOutput(NamedTuple):
    """Outputs of each decoder layer for denoising queries: logits [layers, B, Q, T], boxes_cxcywh [layers, B, Q, 4]."""

    logits: Tensor
    boxes_cxcywh: Tensor


class GroundingDinoOutput(NamedTuple):
    """Final and intermediate outputs. Boxes are cx, cy, w, h in 0..1 of the unpadded image.

    logits [B, N, T] (before the sigmoid, -inf on padded tokens), boxes_cxcywh [B, N, 4];
    decoder_logits [layers, B, N, T], decoder_boxes [layers, B, N, 4] of each decoder layer, the final one last;
    proposal_logits [B, S, T], proposal_boxes [B, S, 4], proposal_valid [B, S] bool at every image position;
    topk_indices [B, N] int64, positions selected as queries, best first.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    decoder_logits: Tensor
    decoder_boxes: Tensor
    proposal_logits: Tensor
    proposal_boxes: Tensor
    proposal_valid: Tensor
    topk_indices: Tensor


class GroundingDino(nn.Module):
    """Open-set detector.

    Text features depend on the prompt only and image features on the image only: `encode_text` and `encode_image` are
    separate, so that a prompt is encoded once for many images, and an image once for many prompts.
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.config = config
        self.text_backbone = Bert(config.text)
        self.text_proj = nn.Linear(config.text.width, config.d_model)
        self.backbone = build_backbone(config.backbone, config.stages)
        self.neck = Neck(config)
        self.image_position = ImagePosition(config.d_model)
        self.level_embed = nn.Parameter(torch.empty(config.levels, config.d_model))
        self.encoder = Encoder(config)
        self.selection = QuerySelection(config)
        self.query_embed = nn.Embedding(config.num_queries, config.d_model)
        self.decoder = Decoder(config)
        if config.own_box_heads:
            self.box_heads = nn.ModuleList(_box_head(config) for _ in range(config.decoder_layers))
        else:
            self.box_head = _box_head(config)
        self.token_logits = TokenLogits(config.logit_scale, config.logit_bias_init)
        self.word_scores = WordScores(config.d_model, config.words) if config.words else None
        self._initialise()

    def encode_text(self, input_ids: Tensor, position_ids: Tensor, self_attention_mask: Tensor) -> Tensor:
        """input_ids, position_ids [B, T] int64, self_attention_mask [B, T, T] bool -> text_features [B, T, d_model]."""
        return self.text_proj(self.text_backbone(input_ids, position_ids, self_attention_mask))

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
    ) -> GroundingDinoOutput:
        """Detect in pixel_values [B, 3, H, W], zeros on padding; other inputs as `detect`."""
        image_features = self.encode_image(pixel_values)
        return self.detect(image_features, pixel_mask, text_features, text_mask, position_ids, self_attention_mask)

    def encode_image(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values [B, 3, H, W] -> levels before the feature enhancer, [B, d_model, h, w] each.

        With words, also their map [B, words, h, w] on the level `words_level`.
        """
        maps = self.backbone(pixel_values)
        return [*self.neck(maps), *word_maps(self.backbone, maps)]

    def detect(
        self,
        image_features: Sequence[Tensor],
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
    ) -> GroundingDinoOutput:
        """Detect in encoded images.

        image_features of `encode_image`; pixel_mask [B, H, W] bool, True = image; text_features [B, T, d_model] of
        `encode_text`; text_mask [B, T] bool, True = token; position_ids [B, T] int64; self_attention_mask [B, T, T]
        bool.
        """
        prompt = (text_features, text_mask, position_ids, self_attention_mask)
        return self._detect(image_features, pixel_mask, *prompt, None)[0]

    def denoise(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
        denoising: DenoisingQueries,
    ) -> tuple[GroundingDinoOutput, DenoisedOutput]:
        """Outputs of `forward`, which denoising queries do not change, and of the denoising queries, for training."""
        prompt = (text_features, text_mask, position_ids, self_attention_mask)
        output, denoised = self._detect(self.encode_image(pixel_values), pixel_mask, *prompt, denoising)
        assert denoised is not None
        return output, denoised

    def _detect(
        self,
        image_features: Sequence[Tensor],
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
        denoising: DenoisingQueries | None,
    ) -> tuple[GroundingDinoOutput, DenoisedOutput | None]:
        image_features, words = image_features[: self.config.levels], image_features[self.config.levels :]
        image, positions, levels = self._flatten(image_features, pixel_mask)
        known = None if self.word_scores is None else self.word_scores.maps(words[0], text_features)
        memory, text = self.encoder(
            image, positions, levels, text_features, text_mask, position_ids, self_attention_mask
        )
        queries = self.query_embed.weight[: memory.shape[1]]  # [N, C], N = min(num_queries, S)
        part = levels.valid_ratios[:, self.config.words_level, None]  # [B, 1, 2], of the map of words
        at_cells = None if known is None else at_points(known, levels.centres * part)
        proposals = self.selection(memory, levels, text, text_mask, queries.shape[0], at_cells)
        queries, references, query_mask = queries.expand(memory.shape[0], -1, -1), proposals.references, None
        if denoising is not None:
            query_mask = _query_mask(denoising, queries.shape[1])
            queries = torch.cat([denoising.content, queries], 1)
            references = torch.cat([denoising.boxes_cxcywh, references], 1)
        decoded = self.decoder(queries, references, memory, levels, text, text_mask, self._heads(), query_mask)
        logits, boxes = self._predictions(decoded, text, text_mask)
        if known is not None:
            padded = [box.detach() * torch.cat((part, part), 2) for box in boxes]
            logits = [one + in_boxes(known, box) for one, box in zip(logits, padded, strict=True)]
        denoised = None
        if denoising is not None:
            count = denoising.content.shape[1]
            denoised = DenoisedOutput(*(torch.stack([x[:, :count] for x in layers]) for layers in (logits, boxes)))
            logits, boxes = [x[:, count:] for x in logits], [x[:, count:] for x in boxes]
        output = GroundingDinoOutput(
            logits=logits[-1],
            boxes_cxcywh=boxes[-1],
            decoder_logits=torch.stack(logits),
            decoder_boxes=torch.stack(boxes),
            proposal_logits=proposals.logits,
            proposal_boxes=proposals.boxes,
            proposal_valid=proposals.valid,
            topk_indices=proposals.indices,
        )
        return output, denoised

    def _flatten(self, maps: Sequence[Tensor], pixel_mask: Tensor) -> tuple[Tensor, Tensor, FeatureLevels]:
        """Levels in a row and their position encodings, both [B, S, C]; and their geometry."""
        masks = [level_mask(pixel_mask, x.shape[2], x.shape[3]) for x in maps]
        positions = [
            self.image_position(mask).flatten(2).transpose(1, 2) + self.level_embed[level]
            for level, mask in enumerate(masks)
        ]
        image = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        return image, torch.cat(positions, 1), level_geometry(masks)

    def _predictions(
        self, decoded: DecoderOutput, text: Tensor, text_mask: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Token logits [B, N, T] and boxes [B, N, 4] of each layer, the latter from the normed state."""
        logits = [self.token_logits(state, text, text_mask) for state in decoded.states]
        boxes = [
            torch.sigmoid(box_head(state) + inverse_sigmoid(reference))
            for box_head, state, reference in zip(self._heads(), decoded.states, decoded.references[:-1], strict=True)
        ]
        return logits, boxes

    def _heads(self) -> list[nn.Module]:
        """The box head of each decoder layer."""
        return list(self.box_heads) if self.config.own_box_heads else [self.box_head] * self.config.decoder_layers

    def _initialise(self) -> None:
        for part in (self.encoder, self.decoder, self.text_proj, self.selection.output):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.initialise()
        for head in (*self._heads(), self.selection.box_head):
            assert isinstance(head, Mlp)
            for parameter in head.layers[-1].parameters():
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.text_proj.bias)
        nn.init.normal_(self.level_embed)
        nn.init.normal_(self.query_embed.weight)


def _box_head(config: GroundingDinoConfig) -> Mlp:
    return Mlp(config.d_model, config.d_model, config.d_model, 4)


def _query_mask(denoising: DenoisingQueries, learned: int) -> Tensor:
    """[B, 1, Q + N, Q + N] bool, True where a query may attend to another."""
    batch, count = denoising.visible.shape[:2]
    mask = denoising.visible.new_ones(batch, count + learned, count + learned)
    mask[:, :count, :count] = denoising.visible
    mask[:, count:, :count] = False
    return mask[:, None]
