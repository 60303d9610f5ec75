import torch

from models.grounding_dino.deformable import DeformableAttention

SHAPES = [(4, 4), (2, 2)]


def fresh_attention() -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(16, 4, 2, 2)
    attention.initialise()
    return attention


def test_padding_is_never_read() -> None:
    attention = fresh_attention()
    query, value = torch.randn(1, 3, 16), torch.randn(1, 20, 16)
    mask = torch.rand(1, 20) > 0.4
    centre, step = torch.rand(1, 3, 2, 2), torch.full((1, 1, 2, 2), 0.25)
    changed = torch.where(mask[:, :, None], value, 100.0)
    outputs = [attention(query, v, mask, SHAPES, centre, step) for v in (value, changed)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_untrained_heads_look_in_different_directions_and_further_with_each_point() -> None:
    offsets = fresh_attention().sampling_offsets.bias.reshape(4, 2, 2, 2)  # [h, L, P, 2]
    torch.testing.assert_close(offsets[:, 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    torch.testing.assert_close(offsets[:, :, 1], 2 * offsets[:, :, 0])


def test_an_offset_is_counted_in_steps() -> None:
    attention = fresh_attention()
    with torch.no_grad():
        attention.value_proj.weight.copy_(torch.eye(16))
        attention.output_proj.weight.copy_(torch.eye(16))
        attention.sampling_offsets.bias.copy_(torch.tensor([2.0, 1.0]).repeat(16))
    value = torch.zeros(1, 20, 16)
    value[0, 4 * 1 + 2] = 6.0  # row 1, column 2 of the first level
    centre, step = torch.full((1, 1, 2, 2), 1 / 8), torch.full((1, 1, 1, 2), 1 / 4)  # centre of the first cell
    output = attention(torch.zeros(1, 1, 16), value, torch.ones(1, 20, dtype=torch.bool), SHAPES, centre, step)
    torch.testing.assert_close(output, torch.full((1, 1, 16), 3.0))  # two of four equal weights
