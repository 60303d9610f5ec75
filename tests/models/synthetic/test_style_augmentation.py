import pytest
import torch

from models.synthetic.style_augmentation import CHANGES, PAINTS, Change, painted, recoloured, restyled


@pytest.fixture
def drawings() -> torch.Tensor:
    """A disc with a bright and a dark half, premultiplied."""
    axis = torch.linspace(-1, 1, 24)
    alpha = ((axis[:, None] ** 2 + axis**2).sqrt() < 0.7).float()
    colour = torch.where(axis > 0, 0.9, 0.3) * torch.tensor([1.0, 0.4, 0.2])[:, None, None]
    return torch.cat([colour * alpha, alpha[None]])[None].repeat(6, 1, 1, 1)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=lambda change: change.__name__)
def test_every_change_leaves_a_premultiplied_drawing_and_changes_it(change: Change, drawings: torch.Tensor):
    changed = change(drawings.clone(), drawings.flip(3) * 0.5 + 0.2 * drawings[:, 3:], seeded())
    assert changed.shape == drawings.shape
    assert (changed[:, :3] >= 0).all()
    assert (changed[:, :3] <= changed[:, 3:] + 1e-6).all()
    assert not torch.allclose(changed, drawings)


def test_only_an_outline_changes_the_shape(drawings: torch.Tensor):
    for _, change in CHANGES:
        grown = change(drawings.clone(), drawings, seeded())[:, 3] - drawings[:, 3]
        assert (grown >= 0).all()
        assert bool(grown.any()) == (change.__name__ == "_outline")


def test_without_strength_nothing_changes(drawings: torch.Tensor):
    assert torch.equal(restyled(drawings, drawings, 0.0, seeded()), drawings)
    assert torch.allclose(recoloured(drawings, 0.0, seeded()), drawings, atol=1e-5)


def test_changes_of_style_leave_the_drawings_given_as_they_were(drawings: torch.Tensor):
    before = drawings.clone()
    restyled(drawings, drawings, 3.0, seeded())
    assert torch.equal(drawings, before)


@pytest.mark.parametrize("name", ["red", "green", "blue"])
def test_a_painted_drawing_is_of_that_colour_and_keeps_its_shape(name: str, drawings: torch.Tensor):
    result = painted(drawings, torch.tensor(PAINTS[name]).expand(len(drawings), 3))
    assert torch.equal(result[:, 3], drawings[:, 3])
    mean = result[:, :3].sum((2, 3))
    assert (mean.argmax(1) == ["red", "green", "blue"].index(name)).all()
    assert result[0, :3, :, 18].sum() > result[0, :3, :, 6].sum()
