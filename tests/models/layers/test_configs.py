"""Sizes of backbones and text encoders: read without PyTorch, as the families' configs are."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.layers.configs import EfficientNetConfig, ResNetConfig, SwinConfig

ROOT = Path(__file__).parents[3]


def test_configs_of_the_families_are_read_without_pytorch():
    code = (
        "import sys, models.clip.config, models.glip.config, models.grounding_dino.config\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("config", "channels"),
    [
        (ResNetConfig(), (256, 512, 1024, 2048)),
        (SwinConfig(), (96, 192, 384, 768)),
        (EfficientNetConfig(), (24, 40, 112, 320)),
        (EfficientNetConfig(words=8), (24, 40, 112, 328)),
    ],
)
def test_channels_of_the_published_sizes(config, channels):
    assert config.channels == channels


@pytest.mark.parametrize("changes", [{"widths": (16, 24)}, {"repeats": (1, 2, 2, 3, 3, 4, 0)}])
def test_sizes_that_make_no_network_are_refused(changes):
    with pytest.raises(ValueError, match="7 positive numbers are needed"):
        EfficientNetConfig(**changes)


def test_drawings_without_a_space_of_words_are_refused():
    with pytest.raises(ValueError, match="drawn needs words"):
        EfficientNetConfig(drawn=8)
