"""The chosen positions against the official selection, written out pair by pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.glip.candidates import candidates, rank_is_decided, to_unit
from models.glip.model import GlipOutput
from tests.models.small_glip import SWIN

SCORE_NOISE = 1e-3
MASK = torch.ones(1, 100, 200, dtype=torch.bool)


def output(sizes: list[int], tokens: int, *, seed: int, spread: float = 3.0, batch: int = 1) -> GlipOutput:
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    corners = torch.rand(batch, count, 2, 2, generator=generator).sort(2).values
    return GlipOutput(
        token_logits=torch.randn(batch, count, tokens, generator=generator) * spread,
        boxes_xyxy=corners.flatten(2) * 100,
        centerness=torch.randn(batch, count, generator=generator),
        anchors_xyxy=torch.zeros(count, 4),
        level_sizes=sizes,
    )


def official(out: GlipOutput, owner: list[int], limit: int, floor: float) -> dict[tuple[int, int], float]:
    """(position, label) -> score of every pair that the official code keeps (GLIP modeling/rpn/inference.py)."""
    tokens = out.token_logits[0].double().sigmoid().numpy()
    centerness = out.centerness[0].double().sigmoid().numpy()
    kept: dict[tuple[int, int], float] = {}
    start = 0
    for size in out.level_sizes:
        pairs = {}
        for position in range(start, start + size):
            for label in set(owner) - {-1}:
                score = np.mean([tokens[position, t] for t, o in enumerate(owner) if o == label])
                if score > floor:
                    pairs[position, label] = score * centerness[position]
        best = sorted(pairs, key=lambda pair: -pairs[pair])[:limit]
        kept |= {pair: float(np.sqrt(pairs[pair])) for pair in best}
        start += size
    return kept


def chosen(out: GlipOutput, owner: list[int], limit: int, floor: float) -> dict[tuple[int, int], float]:
    """The same of `candidates`, whose rows are told apart by their boxes."""
    config = replace(SWIN, candidates_per_level=limit, candidate_score=floor)
    scores, boxes = candidates(out, torch.tensor([owner]), MASK, config)
    whole = to_unit(out.boxes_xyxy, MASK)[0]
    found = {}
    for row, box in enumerate(boxes[0]):
        position = int((whole - box).abs().sum(1).argmin())
        for label in set(owner) - {-1}:
            values = scores[0, row, torch.tensor(owner) == label]
            torch.testing.assert_close(values, values[:1].expand_as(values))
            if values[0] > 0:
                found[position, label] = float(values[0])
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    limit=st.integers(1, 40),
    floor=st.sampled_from([0.05, 0.3, 0.6]),
)
def test_the_official_pairs_and_no_others_score(seed, sizes, lengths, limit, floor) -> None:
    owner = [-1]
    for label, length in enumerate(lengths):
        owner += [label] * length + [-1]
    out = output(sizes, len(owner), seed=seed)
    wanted, got = official(out, owner, limit, floor), chosen(out, owner, limit, floor)
    assert got.keys() == wanted.keys()
    np.testing.assert_allclose([got[pair] for pair in wanted], list(wanted.values()), atol=1e-6)


def test_the_score_is_taken_before_centerness_and_its_root_after() -> None:
    out = output([1], 2, seed=0)._replace(token_logits=torch.tensor([[[0.0, 2.0]]]), centerness=torch.tensor([[-1.0]]))
    scores, _ = candidates(out, torch.tensor([[0, 0]]), MASK, SWIN)
    mean = (0.5 + torch.tensor(2.0).sigmoid()) / 2
    torch.testing.assert_close(scores, (mean * torch.tensor(-1.0).sigmoid()).sqrt().expand(1, 1, 2))


def test_tokens_of_no_label_and_padding_never_score() -> None:
    out = output([20], 4, seed=1)
    out.token_logits[..., 3] = -torch.inf
    scores, _ = candidates(out, torch.tensor([[-1, 0, -1, -1]]), MASK, SWIN)
    assert scores[..., 1].max() > 0
    assert scores[..., [0, 2, 3]].abs().max() == 0


def test_rows_come_best_first_within_a_level() -> None:
    scores, _ = candidates(output([30], 2, seed=2), torch.tensor([[0, -1]]), MASK, SWIN)
    assert scores.shape == (1, SWIN.candidates_per_level, 2)
    assert torch.equal(scores[0, :, 0], scores[0, :, 0].sort(descending=True).values)


@pytest.mark.parametrize(("height", "width"), [(100, 200), (60, 170)])
def test_boxes_are_parts_of_the_unpadded_image(height: int, width: int) -> None:
    mask = torch.zeros(1, 100, 200, dtype=torch.bool)
    mask[:, :height, :width] = True
    box = torch.tensor([[[-5.0, 0.0, width, 3 * height], [0.0, height / 2, width / 2, height]]])
    expected = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.25, 0.75, 0.5, 0.5]]])
    torch.testing.assert_close(to_unit(box, mask), expected)


def scored(scores, *, labels=1):
    """One level whose labels, of a token each, score `scores` [S, labels] with full centerness."""
    scores = torch.tensor(scores).reshape(1, -1, labels)
    count = scores.shape[1]
    return GlipOutput(
        token_logits=scores.logit(),
        boxes_xyxy=torch.zeros(1, count, 4),
        centerness=torch.full((1, count), 50.0),
        anchors_xyxy=torch.zeros(count, 4),
        level_sizes=[count],
    )


def decided(scores, *, labels=1):
    owner = torch.arange(labels)[None]
    return rank_is_decided(scored(scores, labels=labels), owner, SWIN, near=SCORE_NOISE)[0].tolist()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.5, 0.3], [True, True, True]),
        ([0.9, 0.5, 0.50001], [True, False, False]),
        ([0.9, 0.02, 0.020001], [True, False, False]),
        ([0.9, 0.05001, 0.01], [True, False, True]),
        ([0.9, 3e-5, 2.99e-5], [True, False, False]),
    ],
    ids=["apart", "near", "near below the candidate score", "at the candidate score", "one bit of a key apart"],
)
def test_ranks_that_hang_on_noise_are_undecided(scores, expected):
    assert decided(scores) == expected


def test_a_pair_at_the_edge_of_what_is_kept_is_undecided():
    """SWIN keeps 12 pairs of a level; of 7 positions with 2 labels each, the last two pairs kept and left are near."""
    scores = [[0.9 - 0.05 * row, 0.4 - 0.02 * row] for row in range(7)]
    assert decided(scores, labels=2) == [True] * 4 + [False] + [True] * 2
