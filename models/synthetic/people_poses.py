"""Random poses of people in streets: turns of the bones of a `HumanBody`."""

import random
from collections.abc import Callable

import numpy as np

from models.synthetic.human_body import Floats, rotation

Turns = dict[str, Floats]
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
ARM = np.array([0.7, -0.7, 0.0])  # direction of the left arm in the rest pose; the forearm points to the front by 45°
KNUCKLES = np.array([0.38, -0.41, -0.83])
SIGN = {"L": 1, "R": -1}
HANGING = -38.0  # turn from the rest pose to an arm that hangs


def random_pose(rng: random.Random) -> Turns:
    """Draw a pose."""
    (stance,) = rng.choices((_standing, _walking, _running, _sitting, _leaning), (5, 6, 1, 1.5, 0.7))
    turns: Turns = {}
    _back(turns, rng, bend=rng.gauss(3, 4), twist=rng.gauss(0, 8), tilt=rng.gauss(0, 3))
    _head(turns, rng)
    stance(turns, rng)
    for side in "LR":
        _fingers(turns, side, rng.uniform(0, 40))
    return turns


def _fingers(turns: Turns, side: str, degrees: float) -> None:
    for finger in range(2, 6):
        for part in range(1, 4):
            turns[f"finger{finger}-{part}.{side}"] = rotation(KNUCKLES * (1, SIGN[side], SIGN[side]), degrees)


def _back(turns: Turns, rng: random.Random, *, bend: float, twist: float, tilt: float) -> None:
    for bone in ("spine04", "spine03", "spine02", "spine01"):
        turns[bone] = rotation(Y, twist / 4) @ rotation(X, bend / 4) @ rotation(Z, tilt / 4)


def _head(turns: Turns, rng: random.Random) -> None:
    for bone in ("neck01", "head"):
        turns[bone] = rotation(Y, rng.gauss(0, 13)) @ rotation(X, rng.gauss(3, 6)) @ rotation(Z, rng.gauss(0, 3))


def arm(turns: Turns, side: str, *, forward: float, aside: float, elbow: float, twist: float = 0.0) -> None:
    """Turn an arm that hangs by degrees to the front and to its side, and bend its elbow."""
    sign = 1 if side == "L" else -1
    along = ARM * (sign, 1, 1)
    shoulder = rotation(X, -forward) @ rotation(Z, sign * (HANGING + aside)) @ rotation(along, sign * twist)
    if aside > 50:  # the collarbone follows
        turns[f"clavicle.{side}"] = rotation(Z, sign * (aside - 50) * 0.2)
    turns[f"upperarm01.{side}"] = shoulder
    turns[f"lowerarm01.{side}"] = rotation(np.cross(along, Z), elbow - 40)


def leg(turns: Turns, side: str, *, forward: float, aside: float, knee: float) -> None:
    """Turn a leg by degrees to the front and to its side, and bend its knee."""
    sign = 1 if side == "L" else -1
    turns[f"upperleg01.{side}"] = rotation(X, -forward) @ rotation(Z, sign * (aside - 4))
    turns[f"lowerleg01.{side}"] = rotation(X, knee)


def _free_arm(turns: Turns, side: str, rng: random.Random) -> None:
    """Draw what an arm does that walking does not move."""
    wave: tuple[Callable[[], tuple[float, float, float, float]], ...] = (
        lambda: (rng.gauss(5, 10), rng.uniform(2, 14), rng.uniform(5, 35), rng.gauss(0, 15)),  # hangs
        lambda: (rng.gauss(-15, 8), rng.uniform(15, 30), rng.uniform(60, 100), rng.uniform(30, 60)),  # on the hip
        lambda: (rng.uniform(15, 40), rng.uniform(0, 10), rng.uniform(70, 115), rng.uniform(-70, 0)),  # before the body
        lambda: (rng.uniform(20, 50), rng.uniform(5, 30), rng.uniform(110, 140), rng.gauss(0, 20)),  # at the head
        lambda: (rng.uniform(40, 100), rng.uniform(0, 20), rng.uniform(5, 40), rng.gauss(0, 20)),  # to the front
        lambda: (rng.gauss(0, 15), rng.uniform(70, 160), rng.uniform(5, 70), rng.gauss(0, 20)),  # raised aside
    )
    forward, aside, elbow, twist = rng.choices(wave, (6, 1.5, 2.5, 1.5, 1, 0.8))[0]()
    arm(turns, side, forward=forward, aside=aside, elbow=elbow, twist=twist)


def _standing(turns: Turns, rng: random.Random) -> None:
    for side in "LR":
        leg(turns, side, forward=rng.gauss(0, 4), aside=rng.uniform(-1, 9), knee=abs(rng.gauss(0, 5)))
        _free_arm(turns, side, rng)


def _walking(turns: Turns, rng: random.Random) -> None:
    stride, phase = rng.uniform(12, 28), rng.uniform(0, 2 * np.pi)
    for side, offset in (("L", 0.0), ("R", np.pi)):
        swing = float(np.sin(phase + offset))
        lifted = max(0.0, float(np.cos(phase + offset)))  # moves to the front
        leg(turns, side, forward=stride * swing + 4, aside=rng.uniform(-2, 3), knee=5 + 2 * stride * lifted)
        if rng.random() < 0.75:
            arm(turns, side, forward=-stride * swing, aside=rng.uniform(2, 10), elbow=rng.uniform(8, 40))
        else:
            _free_arm(turns, side, rng)


def _running(turns: Turns, rng: random.Random) -> None:
    phase, stride = rng.uniform(0, 2 * np.pi), rng.uniform(30, 50)
    for side, offset in (("L", 0.0), ("R", np.pi)):
        swing = float(np.sin(phase + offset))
        leg(turns, side, forward=stride * swing + 10, aside=0, knee=15 + 70 * max(0.0, float(np.cos(phase + offset))))
        arm(turns, side, forward=-40 * swing, aside=rng.uniform(5, 20), elbow=rng.uniform(70, 100))


def _sitting(turns: Turns, rng: random.Random) -> None:
    knee, apart = rng.uniform(70, 105), rng.uniform(0, 18)
    for side in "LR":
        leg(turns, side, forward=rng.uniform(72, 92), aside=apart, knee=knee + rng.gauss(0, 10))
        if rng.random() < 0.6:
            forward, elbow = rng.uniform(15, 45), rng.uniform(40, 90)
            arm(turns, side, forward=forward, aside=rng.uniform(0, 10), elbow=elbow, twist=-30)
        else:
            _free_arm(turns, side, rng)


def _leaning(turns: Turns, rng: random.Random) -> None:
    """Bent to the front, as over a thing."""
    _back(turns, rng, bend=rng.uniform(25, 55), twist=rng.gauss(0, 8), tilt=0)
    for side in "LR":
        leg(turns, side, forward=rng.uniform(5, 30), aside=rng.uniform(0, 8), knee=rng.uniform(5, 40))
        arm(turns, side, forward=rng.uniform(20, 80), aside=rng.uniform(0, 15), elbow=rng.uniform(10, 70))
