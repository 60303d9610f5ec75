"""Looks are drawn at random, within what there is."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.synthetic.human_body import Phenotype
from models.synthetic.people_wardrobe import (
    Fabric,
    Surface,
    random_fabric,
    random_outfit,
    random_phenotype,
    random_skin,
)

RED, BLUE = (200.0, 0.0, 0.0), (0.0, 0.0, 200.0)
PHOTO = Image.effect_noise((300, 200), 60).convert("RGB")


@given(st.integers())
def test_looks_are_within_their_bounds_and_repeat(seed: int):
    rng, again = random.Random(seed), random.Random(seed)
    body = random_phenotype(rng)
    assert body == random_phenotype(again)
    assert all(0 <= value <= 1 for value in (body.age, body.gender, body.muscle, body.weight, body.height))
    assert abs(sum(body.origins) - 1) < 1e-9
    outfit, other = random_outfit(rng, body, [PHOTO]), random_outfit(again, body, [PHOTO])
    assert (outfit.sleeve, outfit.hair, outfit.bag) == (other.sleeve, other.hair, other.bag)
    assert set(outfit.fabrics) == {Surface.TOP, Surface.INNER, Surface.BOTTOM, Surface.SHOE, Surface.BAG}
    skin, hair = random_skin(rng, body)
    assert skin.min() >= 0
    assert hair.max() <= 255


def test_skirts_and_beards_are_of_those_who_wear_them():
    rng = random.Random(0)
    men, women = Phenotype(age=0.6, gender=1), Phenotype(age=0.6, gender=0)
    beards = [random_outfit(rng, one, ()).beard for one in [men] * 60 + [women] * 60]
    bare = [random_outfit(rng, one, ()).trousers == 0 for one in [men] * 60 + [women] * 60]
    assert any(beards[:60])
    assert not any(beards[60:])
    assert not any(bare[:60])
    assert any(bare[60:])


def test_stripes_change_with_the_height_and_checks_with_the_width_too():
    up, across = np.array([[0, 0.1, 0], [0, 0.6, 0]]), np.array([[0.1, 0, 0], [0.6, 0, 0]])
    stripes, checks, plain = (Fabric((RED, BLUE), name, 1.0, 0.0) for name in ("stripes", "checks", "plain"))
    assert stripes.at(up).tolist() == [list(RED), list(BLUE)]
    assert stripes.at(across).tolist() == [list(RED), list(RED)]
    assert checks.at(across).tolist() == [list(RED), [100, 0, 100]]
    assert plain.at(up).tolist() == [list(RED), list(RED)]


def test_a_print_is_on_the_chest_alone_and_a_cloth_everywhere():
    white = Image.new("RGB", (128, 128), "white")
    points = np.array([[0, 4.0, 1], [0, 4.0, -1], [0, -3.0, 1]])
    printed, cloth = (Fabric((RED, BLUE), name, 1.0, 0.0, white).at(points) for name in ("print", "cloth"))
    assert printed.tolist() == [[255, 255, 255], list(RED), list(RED)]
    assert cloth.min() == 255


def test_without_photographs_no_fabric_is_of_one():
    rng = random.Random(1)
    assert all(random_fabric(rng, ()).picture is None for _ in range(60))
    assert any(random_fabric(rng, [PHOTO]).picture is not None for _ in range(60))
