import torch

from models.layers.bert import Bert, BertConfig

CONFIG = BertConfig(vocab_size=20, width=16, layers=2, heads=2, hidden=24, max_positions=8)


def small_bert() -> Bert:
    torch.manual_seed(0)
    return Bert(CONFIG).eval()


def test_a_token_is_read_only_where_the_mask_allows() -> None:
    bert, positions = small_bert(), torch.arange(4)[None]
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)[None]
    before = bert(torch.tensor([[3, 4, 5, 6]]), positions, mask)
    after = bert(torch.tensor([[3, 4, 5, 7]]), positions, mask)
    torch.testing.assert_close(before[:, :2], after[:, :2], rtol=0, atol=0)
    assert (before[:, 2:] - after[:, 2:]).abs().amax(-1).gt(1e-4).all()


def test_labels_at_the_same_positions_are_read_alike_wherever_they_stand() -> None:
    bert = small_bert()
    ids, positions = torch.tensor([[3, 4, 3, 4]]), torch.tensor([[0, 1, 0, 1]])
    groups = torch.tensor([0, 0, 1, 1])
    output = bert(ids, positions, (groups[:, None] == groups)[None])
    torch.testing.assert_close(output[:, :2], output[:, 2:])


def test_positions_count() -> None:
    bert, ids, mask = small_bert(), torch.tensor([[3, 4]]), torch.ones(1, 2, 2, dtype=torch.bool)
    assert not torch.allclose(bert(ids, torch.tensor([[0, 1]]), mask), bert(ids, torch.tensor([[1, 0]]), mask))


def test_last_hidden_state_is_normed() -> None:
    output = small_bert()(torch.tensor([[3, 4]]), torch.tensor([[0, 1]]), torch.ones(1, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(output.mean(-1), torch.zeros(1, 2), rtol=0, atol=1e-6)
