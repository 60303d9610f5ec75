import json

import pytest

from models import config_io as configuration
from models.grounding_dino.config import GROUNDING_DINO_CONFIGS, GroundingDinoConfig
from tests.models.small_grounding_dino import RESNET, SWIN


@pytest.mark.parametrize("config", [SWIN, RESNET, *GROUNDING_DINO_CONFIGS.values()])
def test_config_survives_its_way_through_json(config: GroundingDinoConfig) -> None:
    data = json.loads(json.dumps(configuration.to_json(config)))
    assert configuration.from_json(GroundingDinoConfig, data) == config


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"levels": 2}, r"levels 2 are fewer than the backbone stages \(1, 2, 3\)"),
        ({"levels": 6}, "levels must be 1 to 5, got 6"),
        ({"d_model": 96}, "d_model must be a multiple of 64, got 96"),
        ({"heads": 3}, "heads 3 does not divide 256"),
        ({"text_heads": 5}, "text_heads 5 does not divide 256"),
        ({"fusion_heads": 3}, "fusion_heads 3 does not divide 1024"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroundingDinoConfig(**sizes)


def test_published_sizes_differ_in_their_backbone_only() -> None:
    small, base = GROUNDING_DINO_CONFIGS["swin_t"], GROUNDING_DINO_CONFIGS["swin_b"]
    assert (small.backbone.channels, base.backbone.channels) == ((96, 192, 384, 768), (128, 256, 512, 1024))
    assert {name for name in vars(small) if getattr(small, name) != getattr(base, name)} == {"backbone"}
