import json
from dataclasses import dataclass

import pytest

from models.clip.config import CLIP_CONFIGS, ClipConfig
from models.config_io import from_json, to_json
from tests.models.small_clip import AVERAGED


@pytest.mark.parametrize("config", [*CLIP_CONFIGS.values(), AVERAGED])
def test_config_survives_json(config: ClipConfig) -> None:
    assert from_json(ClipConfig, json.loads(json.dumps(to_json(config)))) == config


@dataclass(frozen=True)
class Leaf:
    sizes: tuple[int, ...]
    scale: float = 1.0
    name: str | None = None


def test_values_keep_their_types() -> None:
    leaf = from_json(Leaf, {"type": "Leaf", "sizes": [1, 2], "scale": 2})
    assert leaf == Leaf((1, 2), 2.0)
    assert isinstance(leaf.scale, float)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"type": "Other", "sizes": [1]}, "Other"),
        ({"sizes": [1]}, "type is None"),
        ({"type": "Leaf", "sizes": [1], "colour": 3}, "colour"),
        ({"type": "Leaf"}, "sizes"),
        ({"type": "Leaf", "sizes": "1"}, "sizes"),
        ({"type": "Leaf", "sizes": [1], "scale": "big"}, "scale"),
        ({"type": "Leaf", "sizes": [1], "scale": True}, "scale"),
        ({"type": "Leaf", "sizes": [1], "scale": [1]}, "scale"),
        ({"type": "Leaf", "sizes": {"type": "Leaf"}}, "sizes"),
        ([], "Leaf"),
        (None, "Leaf"),
    ],
)
def test_what_does_not_fit_is_named(data: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        from_json(Leaf, data)
