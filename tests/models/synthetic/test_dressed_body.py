"""Clothes cover what an outfit says."""

import random
from dataclasses import replace

import numpy as np
import pytest

from models.synthetic.dressed_body import DressedBody, Mesh, Noise, Wardrobe, ball
from models.synthetic.human_body import HumanBody, Phenotype, rotation
from models.synthetic.people_wardrobe import Outfit, Surface, random_outfit
from tests.models.synthetic.stick_body import write_body

PLAIN = replace(
    random_outfit(random.Random(0), Phenotype(), ()), sleeve=0.3, hem=0.0, trousers=0.9, skirt=0.0, shoes=0.05,
    opened=0.0, hair="short", volume=0.3, hat=0.0, bag="",
)  # fmt: skip


@pytest.fixture(scope="module")
def wardrobe(tmp_path_factory: pytest.TempPathFactory) -> Wardrobe:
    return Wardrobe(HumanBody(write_body(tmp_path_factory.mktemp("body"))))


def dressed(wardrobe: Wardrobe, outfit: Outfit) -> tuple[DressedBody, Mesh, int]:
    rng = random.Random(0)
    one = DressedBody(wardrobe, wardrobe.body.shaped(Phenotype()), outfit, Noise(rng))
    return one, *one.mesh({"head": rotation((0, 1, 0), 40)}, rng)


def worn_at(mesh: Mesh, closed: int, place: tuple[float, float, float]) -> Surface:
    """The material of the body's face that is nearest to a place."""
    centres = mesh.rest[mesh.faces[:closed]].mean(1)
    return Surface(mesh.materials[np.linalg.norm(centres - place, axis=1).argmin()])


def test_sleeves_trousers_and_shoes_end_where_they_should(wardrobe: Wardrobe):
    _, mesh, closed = dressed(wardrobe, PLAIN)
    up = 0.5  # half of what a man's target moves
    assert worn_at(mesh, closed, (0, 5 + up, 1.3)) == Surface.TOP
    assert worn_at(mesh, closed, (1.8, 5.2 + up, 0.4)) == Surface.TOP
    assert worn_at(mesh, closed, (4.2, 2.8 + up, 0.3)) == Surface.SKIN
    assert worn_at(mesh, closed, (0.9, -3 + up, 0.7)) == Surface.BOTTOM
    assert worn_at(mesh, closed, (1, -8.3 + up, 0.5)) == Surface.SHOE
    assert worn_at(mesh, closed, (0, 8.6 + up, 0)) == Surface.HAIR


def test_long_sleeves_shorts_and_a_bald_head_are_such(wardrobe: Wardrobe):
    outfit = replace(PLAIN, sleeve=0.95, trousers=0.3, hair="bald")
    _, mesh, closed = dressed(wardrobe, outfit)
    assert worn_at(mesh, closed, (3.8, 3.2 + 0.5, 0.3)) == Surface.TOP
    assert worn_at(mesh, closed, (0.95, -6 + 0.5, 0.5)) == Surface.SKIN
    assert Surface.HAIR not in mesh.materials


def test_an_open_coat_shows_what_is_below_it_in_front_only(wardrobe: Wardrobe):
    _, mesh, closed = dressed(wardrobe, replace(PLAIN, opened=1.0))
    assert worn_at(mesh, closed, (0, 5.5, 1.3)) == Surface.INNER
    assert worn_at(mesh, closed, (0, 5.5, -1.3)) == Surface.TOP


def test_clothes_lie_outside_the_skin_and_loose_ones_farther(wardrobe: Wardrobe):
    tights = wardrobe.rows["helper-tights"]
    shape = wardrobe.body.shaped(Phenotype())
    away = [
        np.linalg.norm(dressed(wardrobe, replace(PLAIN, loose=loose))[1].rest[tights] - shape[tights], axis=1).mean()
        for loose in (0.0, 1.0)
    ]
    assert 0.05 < away[0] < away[1]


@pytest.mark.parametrize(("change", "material"), [
    ({"skirt": 0.5}, None), ({"hair": "long"}, Surface.HAIR), ({"hair": "bun"}, Surface.HAIR),
    ({"bag": "back"}, Surface.BAG), ({"bag": "hand"}, Surface.BAG), ({"bag": "side"}, Surface.BAG),
    ({"hat": 0.01}, Surface.BAG), ({"hat": 1.0}, Surface.BAG),
])  # fmt: skip
def test_skirts_hair_bags_and_hats_are_added(wardrobe: Wardrobe, change: dict, material: Surface | None):
    _, bare, _ = dressed(wardrobe, PLAIN)
    _, mesh, _ = dressed(wardrobe, replace(PLAIN, **change))
    assert len(mesh.faces) > len(bare.faces)
    assert mesh.faces.max() < len(mesh.posed) == len(mesh.rest)
    if material is not None:
        assert (mesh.materials == material).sum() > (bare.materials == material).sum()


def test_a_hat_turns_with_the_head(wardrobe: Wardrobe):
    body, mesh, _ = dressed(wardrobe, replace(PLAIN, hat=1.0))
    hat = np.unique(mesh.faces[mesh.materials == Surface.BAG])
    head = wardrobe.body.joints(mesh.rest[: len(body.shape)])["head"]
    turned = (mesh.rest[hat] - head) @ rotation((0, 1, 0), 40).T + head
    assert np.allclose(turned, mesh.posed[hat], atol=1e-6)


def test_a_ball_is_round_or_a_box_by_its_power():
    (round_, faces), (box, _) = ball(np.ones(3), 1.0), ball(np.ones(3), 0.1)
    assert np.allclose(np.linalg.norm(round_, axis=1), 1)
    assert np.linalg.norm(box, axis=1).max() > 1.5
    assert faces.max() == len(round_) - 1


def test_noise_is_smooth_and_its_own():
    first, second = Noise(random.Random(1)), Noise(random.Random(2))
    points = np.random.default_rng(0).uniform(-9, 9, (50, 3))
    assert np.abs(first.at(points, 1.0) - first.at(points + 1e-4, 1.0)).max() < 1e-2
    assert np.abs(first.at(points, 1.0) - second.at(points, 1.0)).max() > 0.1
