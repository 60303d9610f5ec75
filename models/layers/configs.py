"""Sizes of the backbones, the text encoder and the detectors; apart from their modules, to be read without PyTorch."""

from dataclasses import dataclass, field

RESNET_EXPANSION = 4
EFFICIENTNET_STRIDES = (1, 2, 2, 2, 1, 2, 1)
EFFICIENTNET_LEVELS = (1, 2, 4, 6)  # the groups of blocks that end at strides 4, 8, 16 and 32


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT; the defaults are bert-base-uncased."""

    vocab_size: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    max_positions: int = 512
    token_types: int = 2
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True)
class EfficientNetConfig:
    """Sizes of an EfficientNet; the defaults are Lite0's.

    widths, repeats: channels and blocks of the seven groups of blocks; head: channels of the last 1x1 convolution;
    classes: those of its classifier; words: size of the space that the classes are embedded in, 0 for none. With words,
    a stage map of stride 32 ends with the embedding of each cell. drawn: width of the layers of `DrawnWords`, 0 for
    none.
    """

    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    repeats: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    stem: int = 32
    head: int = 1280
    classes: int = 1000
    words: int = 0
    drawn: int = 0

    def __post_init__(self) -> None:
        if self.drawn and not self.words:
            raise ValueError("drawn needs words, whose space the embeddings of drawings are in")
        for name, values in (("widths", self.widths), ("repeats", self.repeats)):
            if len(values) != len(EFFICIENTNET_STRIDES) or min(values) < 1:
                raise ValueError(f"{name} is {values}; {len(EFFICIENTNET_STRIDES)} positive numbers are needed")

    @property
    def map_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps of strides 4, 8, 16 and 32."""
        first, second, third, last = (self.widths[level] for level in EFFICIENTNET_LEVELS)
        return first, second, third, last

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the stage maps of strides 4, 8, 16 and 32."""
        first, second, third, last = self.map_channels
        return first, second, third, last + self.words


@dataclass(frozen=True)
class ResNetConfig:
    """Bottlenecks per stage of a `ModifiedResNet`, and the width of its first stage before expansion."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stage maps."""
        first = self.width * RESNET_EXPANSION
        return (first, first * 2, first * 4, first * 8)


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin; the defaults are Swin-T. The maps of the stages have strides 4, 8, 16, 32."""

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's map."""
        return tuple(self.embed_dim << stage for stage in range(len(self.depths)))


BackboneConfig = SwinConfig | ResNetConfig | EfficientNetConfig


@dataclass(frozen=True)
class DetectorConfig:
    """Backbone and text encoder of a detector; `stages` of the backbone are in use (0 has stride 4)."""

    backbone: BackboneConfig = field(default_factory=SwinConfig)
    text: BertConfig = field(default_factory=BertConfig)
    stages: tuple[int, ...] = (1, 2, 3)

    @property
    def words(self) -> int:
        """Size of the backbone's space of words, 0 if it has none."""
        return getattr(self.backbone, "words", 0)

    @property
    def words_level(self) -> int:
        """Level whose cells the map of words has."""
        return len(self.stages) - (2 if getattr(self.backbone, "drawn", 0) else 1)

    def _level_strides(self, extra: int) -> tuple[int, ...]:
        """Strides of the stages, and of `extra` levels behind them, each of which halves the last map."""
        first = tuple(4 << stage for stage in self.stages)
        return (*first, *(first[-1] << level + 1 for level in range(extra)))
