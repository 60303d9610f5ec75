"""Configuration of GLIP, and its published variants."""

from dataclasses import dataclass, replace

from models.layers.configs import DetectorConfig, SwinConfig


@dataclass(frozen=True)
class GlipConfig(DetectorConfig):
    """Sizes of a GLIP; the defaults are the published GLIP-T (GLIP configs/pretrain/glip_Swin_T_O365_GoldG.yaml).

    `extra_levels` are made from the last stage. anchor_sizes: side of each level's one anchor, in pixels. fused:
    image-text fusion; GLIP-T (A) has none. log_scale_init: token logits are divided by exp(log_scale), published as 0,
    from where they grow slowly; a small model starts lower. A position is a candidate for a label that scores above
    `candidate_score` there; at most `candidates_per_level` pairs of position and label of each level are kept.
    """

    channels: int = 256
    extra_levels: int = 2
    anchor_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    fused: bool = True
    tower_layers: int = 6
    fusion_heads: int = 8
    fusion_hidden: int = 2048
    norm_groups: int = 16
    prior: float = 0.01
    log_scale_init: float = 0.0
    candidate_score: float = 0.05
    candidates_per_level: int = 1000

    def __post_init__(self) -> None:
        if len(self.anchor_sizes) != len(self.strides):
            raise ValueError(f"{len(self.anchor_sizes)} anchor_sizes for {len(self.strides)} levels")
        if not 0 <= self.extra_levels <= 2:
            raise ValueError(f"extra_levels must be 0 to 2, got {self.extra_levels}")
        for name, width, parts in (
            ("norm_groups", self.channels, self.norm_groups),
            ("fusion_heads", self.fusion_hidden, self.fusion_heads),
        ):
            if width % parts:
                raise ValueError(f"{name} {parts} does not divide {width}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each level."""
        return self._level_strides(self.extra_levels)


GLIP_T = GlipConfig()
GLIP_T_A = replace(GLIP_T, fused=False)
GLIP_L = replace(
    GLIP_T, backbone=SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12), tower_layers=8
)

# B, C and the released GLIP-T differ from each other in training data alone.
GLIP_CONFIGS = {"glip_t": GLIP_T, "glip_t_a": GLIP_T_A, "glip_l": GLIP_L}
