"""The official checkpoints that `openset pull` knows."""

import re

import pytest

from models.model_zoo import OFFICIAL


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_checkpoint_has_a_repository_a_licence_and_weights(name):
    official = OFFICIAL[name]
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name), "names are folders of the cache"
    assert re.fullmatch(r"[\w-]+/[\w.-]+", official.repository)
    assert official.licence in ("MIT", "Apache-2.0")
    assert official.weights


def test_safetensors_are_preferred_to_pickles():
    for official in OFFICIAL.values():
        if len(official.weights) > 1:
            assert official.weights[0].endswith(".safetensors")
