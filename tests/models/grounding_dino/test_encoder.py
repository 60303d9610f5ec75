"""Feature enhancer: labels keep apart in the text layers, and padding of the image stays unread."""

import torch

from models.grounding_dino.encoder import Encoder, TextLayer
from models.grounding_dino.feature_levels import level_geometry
from tests.models.shaking import shaken
from tests.models.small_grounding_dino import SWIN


def test_text_layer_mixes_tokens_of_one_label_only():
    torch.manual_seed(0)
    layer = shaken(TextLayer(SWIN))
    text, positions = torch.randn(1, 4, SWIN.d_model), torch.randn(1, 4, SWIN.d_model)
    groups = torch.tensor([0, 0, 1, 1])
    mask = (groups[:, None] == groups)[None, None]
    changed = text.clone()
    changed[:, 2:] += 1
    before, after = layer(text, positions, mask), layer(changed, positions, mask)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2:], before[:, 2:])


def test_valid_positions_and_text_do_not_depend_on_image_padding():
    torch.manual_seed(0)
    encoder = shaken(Encoder(SWIN))
    masks = [torch.ones(1, size, size, dtype=torch.bool) for size in (8, 4, 2, 1)]
    for mask in masks[:3]:
        mask[:, -mask.shape[1] // 2 :] = False
    levels = level_geometry(masks)
    image, positions = torch.randn(2, 1, levels.mask.shape[1], SWIN.d_model).unbind(0)
    prompt = (torch.ones(1, 3, dtype=torch.bool), torch.arange(3)[None], torch.ones(1, 3, 3, dtype=torch.bool))
    text = torch.randn(1, 3, SWIN.d_model)
    other = torch.where(levels.mask[:, :, None], image, 7.0)
    first_image, first_text = encoder(image, positions, levels, text, *prompt)
    second_image, second_text = encoder(other, positions, levels, text, *prompt)
    torch.testing.assert_close(first_image[levels.mask], second_image[levels.mask])
    torch.testing.assert_close(first_text, second_text)
