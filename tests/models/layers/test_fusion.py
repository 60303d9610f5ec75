import torch
from torch import Tensor

from models.layers.fusion import FusionAttention, FusionLayer

HEADS = 3


def by_head(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    image_mask, text_mask = torch.rand(2, 11) > 0.3, torch.rand(2, 5) > 0.3
    image_mask[:, 0] = text_mask[:, 0] = True
    return torch.randn(2, 11, 8), torch.randn(2, 5, 8), image_mask, text_mask


def test_attention_equals_the_published_order_of_products() -> None:
    torch.manual_seed(0)
    attention = FusionAttention(8, 8, 12, HEADS)
    image, text, image_mask, text_mask = inputs()
    queries, keys = by_head(attention.image_proj(image)) * 4**-0.5, by_head(attention.text_proj(text))
    scores = queries @ keys.transpose(2, 3)  # [B, h, S, T]
    to_text = scores.masked_fill(~text_mask[:, None, None], -torch.inf).softmax(3)
    to_image = scores.transpose(2, 3).masked_fill(~image_mask[:, None, None], -torch.inf).softmax(3)
    image_delta = (to_text @ by_head(attention.text_value_proj(text))).transpose(1, 2).flatten(2)
    text_delta = (to_image @ by_head(attention.image_value_proj(image))).transpose(1, 2).flatten(2)
    actual = attention(image, text, image_mask, text_mask)
    torch.testing.assert_close(actual[0], attention.image_out_proj(image_delta))
    torch.testing.assert_close(actual[1], attention.text_out_proj(text_delta))


def test_padding_of_one_side_does_not_reach_the_other() -> None:
    layer = FusionLayer(8, 8, 12, HEADS, 1.0)
    image, text, image_mask, text_mask = inputs()
    before = layer(image, text, image_mask, text_mask)
    other_image = torch.where(image_mask[:, :, None], image, torch.randn_like(image))
    other_text = torch.where(text_mask[:, :, None], text, torch.randn_like(text))
    after = layer(other_image, other_text, image_mask, text_mask)
    torch.testing.assert_close(before[0][image_mask], after[0][image_mask], rtol=0, atol=0)
    torch.testing.assert_close(before[1][text_mask], after[1][text_mask], rtol=0, atol=0)


def test_residual_starts_from_the_normed_inputs() -> None:
    layer = FusionLayer(8, 8, 12, HEADS, 0.0)
    image, text, image_mask, text_mask = inputs()
    fused = layer(image, text, image_mask, text_mask)
    torch.testing.assert_close(fused, (layer.norm_image(image), layer.norm_text(text)))
