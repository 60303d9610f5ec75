"""Feature enhancer: image-text fusion, text self-attention and deformable image self-attention, layer by layer."""

from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.deformable import DeformableAttention
from models.grounding_dino.feature_levels import FeatureLevels
from models.grounding_dino.position_encoding import token_positions
from models.layers.blocks import Attention, FeedForward
from models.layers.fusion import FusionLayer


class TextLayer(nn.Module):
    """Self-attention between the tokens of a label, by mask [B, 1, T, T] bool. [B, T, C] -> [B, T, C]."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.d_model, config.text_heads)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.text_ffn_hidden, activation="relu")
        self.norm2 = nn.LayerNorm(config.d_model)

    def forward(self, text: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        query = text + positions
        text = self.norm1(text + self.self_attn(query, query, text, mask))
        return self.norm2(text + self.ffn(text))


class ImageLayer(nn.Module):
    """Deformable self-attention over the levels; centre [B, S, L, 2]. [B, S, C] -> [B, S, C]."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config.d_model, config.heads, config.levels, config.points, at_cells=True)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.ffn_hidden, activation="relu")
        self.norm2 = nn.LayerNorm(config.d_model)

    def forward(self, image: Tensor, positions: Tensor, levels: FeatureLevels, centre: Tensor) -> Tensor:
        attended = self.self_attn(image + positions, image, levels.mask, levels.shapes, centre, levels.cells)
        image = self.norm1(image + attended)
        return self.norm2(image + self.ffn(image))


class Encoder(nn.Module):
    """image [B, S, C] and text [B, T, C] -> both, enhanced."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        layers = range(config.encoder_layers)
        self.fusion_layers = nn.ModuleList(
            FusionLayer(
                config.d_model, config.d_model, config.fusion_hidden, config.fusion_heads, config.fusion_gamma_init
            )
            for _ in layers
        )
        self.text_layers = nn.ModuleList(TextLayer(config) for _ in layers)
        self.layers = nn.ModuleList(ImageLayer(config) for _ in layers)

    def forward(
        self,
        image: Tensor,
        image_positions: Tensor,
        levels: FeatureLevels,
        text: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        centre = levels.centres[:, :, None] * levels.valid_ratios[:, None]  # [B, S, L, 2]
        text_positions = token_positions(position_ids, text.shape[2])
        token_pairs = self_attention_mask[:, None]  # [B, 1, T, T]
        for fusion, text_layer, layer in zip(self.fusion_layers, self.text_layers, self.layers, strict=True):
            image, text = fusion(image, text, levels.mask, text_mask)
            text = text_layer(text, text_positions, token_pairs)
            image = layer(image, image_positions, levels, centre)
        return image, text
