"""Bodies are shaped by targets, and posed by turns of bones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.synthetic.human_body import HumanBody, Phenotype, rotation
from tests.models.synthetic.stick_body import BONES, write_body, write_target


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> HumanBody:
    return HumanBody(write_body(tmp_path_factory.mktemp("body")))


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_phenotype_between_two_moves_vertices_part_of_the_way(body: HumanBody, gender: float, height: float):
    least = body.shaped(Phenotype(gender=0))
    found = body.shaped(Phenotype(gender=gender, height=height))
    assert np.allclose(found - least, [0, gender + 2 * max(0.0, 2 * height - 1), 0])


@given(st.tuples(*[st.floats(0, 1)] * 5))
def test_the_weights_of_all_combinations_sum_to_one(body: HumanBody, values: tuple[float, ...]):
    age, gender, muscle, weight, height = values
    shape = body.shaped(Phenotype(age=age, gender=gender, muscle=muscle, weight=weight, height=height))
    assert (shape - body.shaped(Phenotype(gender=0)))[:, 1].max() <= gender + 2 + 1e-9


def test_a_target_counts_by_its_farthest_vertex(body: HumanBody):
    reach = body.reach("eyebrows/eyebrows-trans-up")
    assert reach[70] == 1
    assert reach[71] == 0.5
    assert np.count_nonzero(reach) == 2


def test_a_bone_carries_its_children_and_nothing_else(body: HumanBody):
    rest = body.shaped(Phenotype())
    posed = body.posed(rest, {"upperarm01.L": rotation((0, 0, 1), 30), "lowerarm01.L": rotation((1, 0, 0), -90)})
    before, after = body.joints(rest), body.joints(posed)
    for name in BONES:
        if not name.endswith("arm01.L") and name != "wrist.L":
            assert np.allclose(before[name], after[name]), name
    upper, lower = (after[a] - after[b] for a, b in (("lowerarm01.L", "upperarm01.L"), ("wrist.L", "lowerarm01.L")))
    assert np.allclose(upper, rotation((0, 0, 1), 30) @ (before["lowerarm01.L"] - before["upperarm01.L"]))
    assert np.linalg.norm(lower) == pytest.approx(np.linalg.norm(before["wrist.L"] - before["lowerarm01.L"]))


def test_without_turns_a_body_rests(body: HumanBody):
    rest = body.shaped(Phenotype(age=0.2))
    assert np.allclose(body.posed(rest, {}), rest)


def test_shares_of_bones_are_by_the_beginning_of_their_names(body: HumanBody):
    arms = body.share("upperarm", "lowerarm", "wrist")
    x = np.abs(body.shaped(Phenotype())[:, 0])
    assert set(np.unique(arms)) == {0.0, 1.0}
    assert x[arms == 1].min() > x[(arms == 0)].min()
    assert x[arms == 1].max() == x.max()


def test_comments_of_a_target_are_passed_over(tmp_path: Path):
    folder = write_body(tmp_path)
    write_target(folder / "targets/own", "# another\n3 1 0 0")
    assert np.flatnonzero(HumanBody(folder).reach("own")).tolist() == [3]


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: np.linalg.norm(axis) > 0.1), st.floats(-180, 180))
def test_a_rotation_keeps_its_axis_and_all_lengths(axis: tuple[float, ...], degrees: float):
    turn = rotation(axis, degrees)
    assert np.allclose(turn @ axis, axis)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(np.radians(degrees)))
