import pytest
import torch

from models.synthetic.style_augmentation import (
    PAINTS,
    STYLE_CHANGES,
    StyleChange,
    augment_style,
    jitter_sprite_colours,
    paint,
)


@pytest.fixture
def sprites() -> torch.Tensor:
    """A disc with a bright and a dark half, premultiplied."""
    axis = torch.linspace(-1, 1, 24)
    alpha = ((axis[:, None] ** 2 + axis**2).sqrt() < 0.7).float()
    colour = torch.where(axis > 0, 0.9, 0.3) * torch.tensor([1.0, 0.4, 0.2])[:, None, None]
    return torch.cat([colour * alpha, alpha[None]])[None].repeat(6, 1, 1, 1)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("change", [change for _, change in STYLE_CHANGES], ids=lambda change: change.__name__)
def test_every_change_alters_a_sprite_and_keeps_it_premultiplied(change: StyleChange, sprites: torch.Tensor):
    changed = change(sprites.clone(), sprites.flip(3) * 0.5 + 0.2 * sprites[:, 3:], seeded())
    assert changed.shape == sprites.shape
    assert (changed[:, :3] >= 0).all()
    assert (changed[:, :3] <= changed[:, 3:] + 1e-6).all()
    assert not torch.allclose(changed, sprites)


def test_no_change_shrinks_the_shape_and_one_surrounds_it_with_ink(sprites: torch.Tensor):
    surrounded = []
    for _, change in STYLE_CHANGES:
        changed = change(sprites.clone(), sprites, seeded())
        grown = changed[:, 3] - sprites[:, 3]
        assert (grown >= 0).all()
        if grown.any():
            surrounded.append((grown > 0, changed))
    ((ring, changed),) = surrounded
    beside = torch.nn.functional.max_pool2d(sprites[:, 3:], 7, stride=1, padding=3)[:, 0] > 0
    assert (ring <= beside).all()  # at most three pixels wide
    for one, image in zip(ring, changed, strict=True):
        ink = image[:3, one]  # one colour all around, dark or bright
        assert ink.std(1).max() < 1e-6
        assert ink.max() <= 0.25 or ink.min() >= 0.6


def test_strength_zero_changes_nothing(sprites: torch.Tensor):
    assert torch.equal(augment_style(sprites, sprites, 0.0, seeded()), sprites)
    assert torch.allclose(jitter_sprite_colours(sprites, 0.0, seeded()), sprites, atol=1e-5)


def test_style_augmentation_leaves_its_input_untouched(sprites: torch.Tensor):
    before = sprites.clone()
    augment_style(sprites, sprites, 3.0, seeded())
    assert torch.equal(sprites, before)


@pytest.mark.parametrize("name", ["red", "green", "blue"])
def test_a_painted_sprite_has_that_colour_and_keeps_its_shape(name: str, sprites: torch.Tensor):
    result = paint(sprites, torch.tensor(PAINTS[name]).expand(len(sprites), 3))
    assert torch.equal(result[:, 3], sprites[:, 3])
    mean = result[:, :3].sum((2, 3))
    assert (mean.argmax(1) == ["red", "green", "blue"].index(name)).all()
    assert result[0, :3, :, 18].sum() > result[0, :3, :, 6].sum()
