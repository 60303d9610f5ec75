import pytest
import torch

from models.synthetic.corruptions import corrupt, jpeg_blocks, low_resolution


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(8, 3, 20, 28, generator=torch.Generator().manual_seed(0))


def test_strength_zero_changes_nothing(images: torch.Tensor):
    assert torch.equal(corrupt(images, 0.0, torch.Generator()), images)


def test_corrupted_images_stay_in_range_and_the_input_is_untouched(images: torch.Tensor):
    before = images.clone()
    result = corrupt(images, 2.0, torch.Generator().manual_seed(1))
    assert torch.equal(images, before)
    assert result.shape == images.shape
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert not torch.allclose(result, images)


def test_fine_quantisation_keeps_an_image_and_coarse_one_keeps_the_mean_of_its_blocks(images: torch.Tensor):
    fine, rough = (jpeg_blocks(images, torch.full((8, 1, 1, 1), step)) for step in (1e-4, 0.5))
    assert torch.allclose(fine, images, atol=1e-2)
    assert (rough - images).abs().mean() > 0.05
    block = (slice(None), slice(None), slice(0, 8), slice(0, 8))
    assert torch.allclose(rough[block].mean((2, 3)), images[block].mean((2, 3)), atol=0.05)


def test_low_resolution_loses_detail(images: torch.Tensor):
    assert low_resolution(images, 3.0).std() < 0.7 * images.std()
