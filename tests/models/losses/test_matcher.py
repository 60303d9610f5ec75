import torch

from models.losses.matcher import MatchCost, hungarian


def test_each_object_gets_the_query_that_fits_box_and_word():
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]])
    logits = torch.tensor([[3.0, -3.0], [-3.0, 3.0], [-3.0, -3.0]])
    wanted = torch.tensor([[0.7, 0.7, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])
    positive = torch.tensor([[False, True], [True, False]])
    queries, objects = hungarian(logits, boxes, positive, wanted)
    assert dict(zip(objects.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}


def test_two_objects_never_share_a_query():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
    wanted = boxes[:1].repeat(2, 1)
    queries, objects = hungarian(torch.zeros(2, 1), boxes, torch.ones(2, 1, dtype=torch.bool), wanted)
    assert sorted(queries.tolist()) == [0, 1]
    assert sorted(objects.tolist()) == [0, 1]


def test_equal_boxes_are_told_apart_by_their_words():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(2, 1)
    logits = torch.tensor([[-2.0, 2.0], [2.0, -2.0]])
    queries, _ = hungarian(logits, boxes, torch.tensor([[True, False]]), boxes[:1])
    assert queries.tolist() == [1]


def test_a_picture_without_objects_matches_nothing():
    queries, objects = hungarian(
        torch.zeros(3, 2), torch.rand(3, 4), torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0, 4)
    )
    assert queries.tolist() == objects.tolist() == []


def test_more_objects_than_queries_leaves_some_out():
    queries, objects = hungarian(
        torch.zeros(1, 1), torch.rand(1, 4), torch.ones(3, 1, dtype=torch.bool), torch.rand(3, 4)
    )
    assert len(queries) == len(objects) == 1


def test_costs_are_weighted():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]])
    logits = torch.tensor([[-4.0], [4.0]])
    positive, wanted = torch.ones(1, 1, dtype=torch.bool), boxes[:1]
    assert hungarian(logits, boxes, positive, wanted, MatchCost(label=0.0))[0].tolist() == [0]
    assert hungarian(logits, boxes, positive, wanted, MatchCost(label=50.0))[0].tolist() == [1]
