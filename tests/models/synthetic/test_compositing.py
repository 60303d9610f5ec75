import math

import pytest
import torch

from models.synthetic.compositing import Placement, alpha_boxes, random_pose, render_sprites


def placement(*centres: tuple[float, float], side: float = 8.0, angle: float = 0.0, flip: float = 1.0) -> Placement:
    count = len(centres)
    values = (torch.full((count,), value) for value in (side, angle, 1.0, flip))
    return Placement(torch.tensor(centres), *values)


@pytest.fixture
def sprites() -> torch.Tensor:
    """One channel [2, 1, 8, 8] whose left half is opaque."""
    sprite = torch.zeros(2, 1, 8, 8)
    sprite[..., :4] = 1
    return sprite


def test_a_sprite_is_drawn_around_its_centre(sprites: torch.Tensor):
    alpha = render_sprites(sprites, placement((10.0, 6.0), (20.0, 14.0)), (20, 30))[:, 0]
    boxes, present = alpha_boxes(alpha)
    assert boxes.tolist() == [[6, 2, 10, 10], [16, 10, 20, 18]]
    assert present.tolist() == [True, True]


def test_a_flip_mirrors_and_a_half_turn_rotates(sprites: torch.Tensor):
    for other in (placement((10.0, 6.0), (10.0, 6.0), flip=-1.0), placement((10.0, 6.0), (10.0, 6.0), angle=math.pi)):
        boxes, _ = alpha_boxes(render_sprites(sprites, other, (20, 30))[:, 0])
        assert boxes.tolist() == [[10, 2, 14, 10]] * 2


def test_a_warp_displaces_by_halves_of_the_side(sprites: torch.Tensor):
    warp = torch.zeros(2, 2, 4, 4)
    warp[:, 0] = 0.5  # sampled a quarter of the side further right, so moved 2 pixels left
    boxes, _ = alpha_boxes(render_sprites(sprites, placement((10.0, 6.0), (10.0, 6.0)), (20, 30), warp=warp)[:, 0])
    assert boxes.tolist() == [[4, 2, 8, 10]] * 2


def test_an_empty_canvas_is_told_apart(sprites: torch.Tensor):
    alpha = render_sprites(sprites, placement((-50.0, 6.0), (10.0, 6.0)), (20, 30))[:, 0]
    assert alpha_boxes(alpha)[1].tolist() == [False, True]


def test_random_poses_stay_within_their_limits():
    angle, aspect, flip = random_pose(500, max_angle=0.3, generator=torch.Generator().manual_seed(0))
    assert angle.abs().max() <= 0.3
    assert aspect.log().abs().max() <= 0.2 + 1e-6
    assert set(flip.tolist()) == {-1.0, 1.0}


def test_random_placements_lie_on_the_canvas():
    made = Placement.random(
        200, (20, 40), min_side=0.5, max_side=1.0, max_angle=0.0, generator=torch.Generator().manual_seed(0)
    )
    assert (made.centre >= 0).all()
    assert (made.centre <= torch.tensor([40.0, 20.0])).all()
    assert 10 <= made.side.min() <= made.side.max() <= 20
