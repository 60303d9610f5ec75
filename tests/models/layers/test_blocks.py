import pytest
import torch
from torch import nn

from models.layers.blocks import Attention, FeedForward, Mlp


def test_attention_equals_the_one_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        for part, weight, bias in zip(
            (ours.q_proj, ours.k_proj, ours.v_proj),
            theirs.in_proj_weight.chunk(3),
            theirs.in_proj_bias.normal_().chunk(3),
            strict=True,
        ):
            part.weight.copy_(weight)
            part.bias.copy_(bias)
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    valid = torch.tensor([[True, True, True, True], [True, False, True, False]])
    expected = theirs(query, key, value, key_padding_mask=~valid, need_weights=False)[0]
    torch.testing.assert_close(ours(query, key, value, valid[:, None, None]), expected)


def test_each_sample_has_its_own_mask_for_all_heads() -> None:
    """The official code deals a batch's masks out to the wrong heads, so that answers depend on the batch."""
    torch.manual_seed(0)
    attention, x = Attention(8, 4), torch.randn(3, 6, 8)
    masks = torch.rand(3, 1, 6, 6) > 0.5
    masks |= torch.eye(6, dtype=torch.bool)
    together = attention(x, x, x, masks)
    for row in range(3):
        one = x[row : row + 1]
        torch.testing.assert_close(together[row : row + 1], attention(one, one, one, masks[row : row + 1]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="10 is not a multiple of its 4 heads"):
        Attention(10, 4)


def test_mlp_has_an_activation_between_its_layers_and_none_at_the_end() -> None:
    mlp = Mlp(2, 3, 1)
    for name, parameter in mlp.named_parameters():
        nn.init.constant_(parameter, 1.0 if name.endswith("weight") else -1.0)
    assert mlp(torch.tensor([[1.0, 2.0], [0.0, 0.0]])).flatten().tolist() == [5.0, -1.0]


@pytest.mark.parametrize(("activation", "value"), [("relu", 0.0), ("gelu", -0.15865526)])
def test_feed_forward_uses_the_activation_it_is_asked_for(activation: str, value: float) -> None:
    layer = FeedForward(1, 1, activation=activation)
    with torch.no_grad():
        for linear in (layer.fc1, layer.fc2):
            linear.weight.fill_(1.0)
            linear.bias.zero_()
    assert layer(torch.tensor([[-1.0]])).item() == pytest.approx(value)
