"""Configuration of Grounding DINO and MM-Grounding-DINO (arXiv 2401.02361), and their published variants."""

import math
from dataclasses import dataclass, replace

from models.layers.configs import DetectorConfig, SwinConfig


@dataclass(frozen=True)
class GroundingDinoConfig(DetectorConfig):
    """Sizes of a Grounding DINO; the defaults are the published Swin-T.

    Each level beyond the stages, up to `levels`, halves the last map. logit_scale, logit_bias_init: a token logit is
    scale * query.text + bias; the published models have 1 and no bias (None). A small model trains better from
    d_model ** -0.5 and about -4. own_box_heads: each decoder layer has a box head of its own, as in MM-Grounding-DINO,
    rather than all the same.
    """

    d_model: int = 256
    heads: int = 8
    levels: int = 4
    points: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn_hidden: int = 2048
    text_heads: int = 4
    text_ffn_hidden: int = 1024
    fusion_heads: int = 4
    fusion_hidden: int = 1024
    fusion_gamma_init: float = 1e-4
    num_queries: int = 900
    logit_scale: float = 1.0
    logit_bias_init: float | None = None
    own_box_heads: bool = False

    def __post_init__(self) -> None:
        if self.levels < len(self.stages):
            raise ValueError(f"levels {self.levels} are fewer than the backbone stages {self.stages}")
        if not 1 <= self.levels <= 5:
            # A proposal is 0.05 * 2 ** level wide, and one wider than the image is invalid.
            raise ValueError(f"levels must be 1 to 5, got {self.levels}")
        if self.d_model % 64:
            # GroupNorm has 32 groups, and a position takes half of the channels per axis.
            raise ValueError(f"d_model must be a multiple of 64, got {self.d_model}")
        for name, width, heads in (
            ("heads", self.d_model, self.heads),
            ("text_heads", self.d_model, self.text_heads),
            ("fusion_heads", self.fusion_hidden, self.fusion_heads),
        ):
            if width % heads:
                raise ValueError(f"{name} {heads} does not divide {width}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each level."""
        return self._level_strides(self.levels - len(self.stages))


SWIN_T = GroundingDinoConfig()
SWIN_B = replace(SWIN_T, backbone=SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12))
SWIN_L = SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)


def _of_openmmlab(config: GroundingDinoConfig) -> GroundingDinoConfig:
    return replace(config, own_box_heads=True, logit_scale=config.d_model**-0.5, logit_bias_init=-math.log(99))


GROUNDING_DINO_CONFIGS = {
    "swin_t": SWIN_T,
    "swin_b": SWIN_B,
    "mm_swin_t": _of_openmmlab(SWIN_T),
    "mm_swin_b": _of_openmmlab(SWIN_B),
    "mm_swin_l": _of_openmmlab(replace(SWIN_T, backbone=SWIN_L, stages=(0, 1, 2, 3), levels=5)),
}
