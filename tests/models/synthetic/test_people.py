"""Rendered people are cut out, lit, and repeat by their random state."""

import random

import numpy as np
import pytest
from PIL import Image

from models.synthetic.human_body import HumanBody
from models.synthetic.people import SIDE, PersonRenderer
from tests.models.synthetic.stick_body import write_body


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> PersonRenderer:
    photo = Image.effect_noise((200, 160), 80).convert("RGB")
    return PersonRenderer(HumanBody(write_body(tmp_path_factory.mktemp("body"))), [photo])


def test_people_are_cut_out_to_their_edges(renderer: PersonRenderer):
    for seed in range(6):
        image = renderer.draw(random.Random(seed))
        alpha = np.asarray(image)[..., 3]
        assert image.mode == "RGBA"
        assert 0.9 * SIDE < max(image.size) <= SIDE
        assert all(edge.max() > 127 for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
        assert 0.05 < (alpha > 127).mean() < 0.95


def test_the_same_random_state_gives_the_same_person(renderer: PersonRenderer):
    first, again, other = (renderer.draw(random.Random(seed)) for seed in (4, 4, 5))
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert first.size != other.size or not np.array_equal(np.asarray(first), np.asarray(other))


def test_people_are_neither_black_nor_burnt_out_nor_of_one_colour(renderer: PersonRenderer):
    for seed in range(6):
        values = np.asarray(renderer.draw(random.Random(f"light {seed}")), float)
        seen = values[values[..., 3] > 250, :3]
        assert 25 < seen.mean() < 240
        assert seen.std(0).min() > 8
