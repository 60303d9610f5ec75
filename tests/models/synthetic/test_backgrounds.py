import pytest
import torch

from models.synthetic.backgrounds import PAINTERS, Painter, fractal_noise, random_backgrounds, random_shapes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("painter", PAINTERS, ids=lambda painter: painter.__name__)
@pytest.mark.parametrize("size", [(24, 40), (40, 24)])
def test_every_painter_fills_images_of_any_size_and_each_differently(painter: Painter, size: tuple[int, int]):
    images = painter(3, size, seeded())
    assert images.shape == (3, 3, *size)
    assert images.isfinite().all()
    assert not torch.allclose(images[0], images[1])
    assert torch.equal(images, painter(3, size, seeded()))


def test_plain_backgrounds_are_flat_and_busy_ones_are_not():
    sprites = torch.rand(4, 4, 8, 8)
    flat = random_backgrounds(20, (16, 16), sprites=sprites, busy=-1.0, generator=seeded())
    busy = random_backgrounds(200, (16, 16), sprites=sprites, busy=1.0, generator=seeded())
    assert (flat.flatten(2).std(2) < 1e-6).all()
    assert 0.8 < (busy.flatten(2).std(2).amax(1) > 1e-3).float().mean() < 1.0
    assert busy.min() >= 0
    assert busy.max() <= 1


def test_noise_has_the_channels_asked_for():
    assert fractal_noise(2, (9, 17), seeded(), channels=3).shape == (2, 3, 9, 17)


def test_shapes_are_premultiplied_and_leave_their_corners_empty():
    made = random_shapes(40, seeded())
    assert (made[:, :3] <= made[:, 3:] + 1e-6).all()
    assert made[:, 3].amax((1, 2)).min() > 0.9
    assert (made[:, 3, 0, 0] < 0.5).float().mean() > 0.5
