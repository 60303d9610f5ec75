import math

import torch

from models.grounding_dino.position_encoding import ImagePosition, box_positions, sine_features, token_positions


def test_sine_and_cosine_of_a_wavelength_stand_side_by_side() -> None:
    features = sine_features(torch.tensor([0.25]), 4, 100.0)
    angles = [2 * math.pi * 0.25, 2 * math.pi * 0.25 / 10]
    expected = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1])]
    torch.testing.assert_close(features, torch.tensor([expected]))


def test_box_position_tells_y_before_x() -> None:
    box = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    parts = box_positions(box, 8).reshape(4, 8)
    for part, value in zip(parts, (0.2, 0.1, 0.3, 0.4), strict=True):
        torch.testing.assert_close(part, sine_features(torch.tensor(value), 8, 10000.0))


def test_tokens_at_equal_positions_have_equal_features() -> None:
    features = token_positions(torch.tensor([[0, 1, 0]]), 8)
    assert torch.equal(features[0, 0], features[0, 2])
    assert not torch.equal(features[0, 0], features[0, 1])


def test_image_position_ends_at_the_image_not_at_the_padding() -> None:
    position, alone = ImagePosition(8), torch.ones(1, 3, 5, dtype=torch.bool)
    padded = torch.zeros(1, 6, 7, dtype=torch.bool)
    padded[:, :3, :5] = True
    torch.testing.assert_close(position(padded)[:, :, :3, :5], position(alone))


def test_first_half_of_an_image_position_tells_the_row() -> None:
    features = ImagePosition(8)(torch.ones(1, 3, 5, dtype=torch.bool))[0]
    torch.testing.assert_close(features[:4], features[:4, :, :1].expand(-1, -1, 5))
    torch.testing.assert_close(features[4:], features[4:, :1, :].expand(-1, 3, -1))
