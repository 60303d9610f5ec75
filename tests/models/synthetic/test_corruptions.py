import pytest
import torch

from models.synthetic.corruptions import coarse, compressed, degraded


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(8, 3, 20, 28, generator=torch.Generator().manual_seed(0))


def test_without_strength_pictures_stay(pictures: torch.Tensor):
    assert torch.equal(degraded(pictures, 0.0, torch.Generator()), pictures)


def test_pictures_stay_pictures_and_the_one_given_is_not_touched(pictures: torch.Tensor):
    before = pictures.clone()
    result = degraded(pictures, 2.0, torch.Generator().manual_seed(1))
    assert torch.equal(pictures, before)
    assert result.shape == pictures.shape
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert not torch.allclose(result, pictures)


def test_fine_steps_of_compression_keep_a_picture_and_coarse_ones_keep_its_blocks(pictures: torch.Tensor):
    fine, rough = (compressed(pictures, torch.full((8, 1, 1, 1), step)) for step in (1e-4, 0.5))
    assert torch.allclose(fine, pictures, atol=1e-2)
    assert (rough - pictures).abs().mean() > 0.05
    block = (slice(None), slice(None), slice(0, 8), slice(0, 8))
    assert torch.allclose(rough[block].mean((2, 3)), pictures[block].mean((2, 3)), atol=0.05)


def test_a_coarse_picture_has_lost_what_is_fine(pictures: torch.Tensor):
    assert coarse(pictures, 3.0).std() < 0.7 * pictures.std()
