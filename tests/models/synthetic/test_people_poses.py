"""Poses turn the bones that people move."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.synthetic.human_body import HumanBody, Phenotype
from models.synthetic.people_poses import arm, leg, random_pose
from tests.models.synthetic.stick_body import write_body


@given(st.integers())
def test_a_pose_is_of_rotations_and_repeats_by_its_random_state(seed: int):
    pose, again = random_pose(random.Random(seed)), random_pose(random.Random(seed))
    assert {"upperarm01.L", "lowerarm01.R", "upperleg01.L", "lowerleg01.R", "head", "spine01"} <= set(pose)
    for name, turn in pose.items():
        assert np.allclose(turn @ turn.T, np.eye(3)), name
        assert np.allclose(turn, again[name]), name


def test_limbs_swing_to_the_front_and_fold_the_way_they_do(tmp_path):
    body = HumanBody(write_body(tmp_path))
    rest = body.shaped(Phenotype())
    for side, sign in (("L", 1), ("R", -1)):
        turns: dict[str, np.ndarray] = {}
        arm(turns, side, forward=60, aside=0, elbow=40)
        leg(turns, side, forward=45, aside=0, knee=90)
        joints = body.joints(body.posed(rest, turns))
        assert joints[f"lowerarm01.{side}"][2] > 1  # the elbow is before the body
        assert joints[f"lowerleg01.{side}"][2] > 2  # so is the knee
        assert joints[f"foot.{side}"][2] < joints[f"lowerleg01.{side}"][2]  # and the foot behind it
        assert joints[f"wrist.{side}"][0] * sign > 0


def test_an_arm_that_hangs_is_beside_the_body(tmp_path):
    body = HumanBody(write_body(tmp_path))
    turns: dict[str, np.ndarray] = {}
    arm(turns, "L", forward=0, aside=0, elbow=40)
    joints = body.joints(body.posed(body.shaped(Phenotype()), turns))
    upper = joints["lowerarm01.L"] - joints["upperarm01.L"]
    assert upper[1] < -0.9 * np.linalg.norm(upper)
