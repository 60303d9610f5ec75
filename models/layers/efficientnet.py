"""EfficientNet-Lite (Tan and Le 2019, without squeeze-and-excitation, ReLU6 for swish), and its classes as words."""

from torch import Tensor, nn
from torch.nn import functional

from models.layers.configs import EFFICIENTNET_LEVELS as LEVELS
from models.layers.configs import EFFICIENTNET_STRIDES as STRIDES
from models.layers.configs import EfficientNetConfig

KERNELS = (3, 3, 5, 3, 5, 5, 3)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
NORM_EPS = 1e-3


class SameConv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow pads a map of even sides: a stride's odd pixel comes last."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        missing = max(0, kernel - stride)
        even = missing % 2 == 0
        super().__init__(
            inputs, outputs, kernel, stride, padding=missing // 2 if even else 0, groups=groups, bias=False
        )
        self._rim = (missing // 2, missing - missing // 2) * 2 if not even else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride], rounded down."""
        return super().forward(x if self._rim is None else functional.pad(x, self._rim))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; a residual where sizes stay as they are."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = nn.Sequential(SameConv(inputs, width, 1), _norm(width), nn.ReLU6()) if expansion > 1 else None
        self.depthwise = nn.Sequential(
            SameConv(width, width, kernel, stride=stride, groups=width), _norm(width), nn.ReLU6()
        )
        self.project = nn.Sequential(SameConv(width, outputs, 1), _norm(outputs))
        self.has_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        out = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + out if self.has_residual else out


class EfficientNet(nn.Module):
    """Stem and seven groups of blocks; no head."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv(3, config.stem, 3, stride=2), _norm(config.stem), nn.ReLU6())
        inputs = (config.stem, *config.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    InvertedResidual(
                        inputs[group] if number == 0 else inputs[group + 1],
                        inputs[group + 1],
                        kernel=KERNELS[group],
                        stride=STRIDES[group] if number == 0 else 1,
                        expansion=EXPANSIONS[group],
                    )
                    for number in range(count)
                )
            )
            for group, count in enumerate(config.repeats)
        )

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps [B, widths[level], ~H/s, ~W/s] with s = 4, 8, 16, 32 (rounded down)."""
        x, maps = self.stem(pixel_values), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[level] for level in LEVELS]


class ClassWords(nn.Module):
    """Last map of an EfficientNet -> the space of words, as the mean of its classes' embeddings.

    The probabilities of the classes weigh the embeddings of their names (Norouzi et al. 2014, "ConSE"): the surer the
    classifier, the longer the mean. `residual`, which starts at 0, adds what the classes lack, as far as `gate` lets
    it: drawings are to be learnt without a change to what photographs are.
    """

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.head = nn.Sequential(SameConv(config.widths[-1], config.head, 1), _norm(config.head), nn.ReLU6())
        self.classifier = nn.Linear(config.head, config.classes)
        self.embeddings = nn.Linear(config.classes, config.words, bias=False)
        self.residual = nn.Linear(config.head, config.words)
        self.gate = nn.Linear(config.head, 1)
        for layer in (self.residual, self.gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def pool(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> the features of the whole [B, head]."""
        return self.head(features).mean((2, 3))

    def of_cells(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> the embedding of each cell [B, words, h, w]."""
        return self.embed(self.head(features).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def embed(self, pooled: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Features [..., head] -> embeddings [..., words]; `drawn` [..., words] is added to the residual."""
        learnt = self.residual(pooled) if drawn is None else self.residual(pooled) + drawn
        return self.embeddings(self.classifier(pooled).softmax(-1)) + learnt * self.gate(pooled).sigmoid()


class DrawnWords(nn.Module):
    """Features of cells, from maps of three strides -> the embedding of what is drawn there, near 0 for photographs.

    Published classes hold few drawings, but the features before them tell drawings apart, small ones at finer strides.
    The output starts at 0.
    """

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.first = nn.Linear(sum(config.map_channels[1:]), config.drawn)
        self.second = nn.Linear(config.drawn, config.drawn)
        self.output = nn.Linear(config.drawn, config.words)
        self.gate = nn.Linear(config.drawn, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        """[..., C] -> [..., words]."""
        hidden = _dropped(functional.relu6(self.first(features)), dropout)
        hidden = _dropped(functional.relu6(self.second(hidden)) + hidden, dropout)
        return self.output(hidden) * self.gate(hidden).sigmoid()

    def of_cells(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, words, h, w]."""
        return self(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _dropped(x: Tensor, dropout: float) -> Tensor:
    return functional.dropout(x, dropout) if dropout else x


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS)
