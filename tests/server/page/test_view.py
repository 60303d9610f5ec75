"""Zooming keeps the point under the pointer, and the picture fills its area or lies in the middle of it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from .scripts import evaluate

AREA, PICTURE = {"width": 800, "height": 600}, {"width": 4000, "height": 2000}
RUN = """changes.map((change) => {
  const before = placed(area, picture, view);
  view.change(change, area, picture);
  return { before, after: placed(area, picture, view), zoom: view.zoom };
})"""


def run(changes, area=AREA, picture=PICTURE):
    expression = f"(() => {{ const view = new View(() => {{}}); return {RUN}; }})()"
    names = ["View", "placed"]
    return evaluate(expression, names=names, of="view.js", changes=changes, area=area, picture=picture)


def test_whole_picture_fits_in_the_middle():
    (step,) = run([{"factor": 0.1}])
    assert step["after"] == {"scale": 0.2, "x": 0, "y": 100}
    assert step["zoom"] == 1


def test_point_under_the_pointer_stays():
    point = {"x": 500, "y": 320}
    _, step = run([{"factor": 4}, {"factor": 2, "point": point}])
    for axis in ("x", "y"):
        before, after = ((point[axis] - place[axis]) / place["scale"] for place in (step["before"], step["after"]))
        assert abs(before - after) < 1e-6


def test_picture_moves_with_the_pointer():
    _, step = run([{"factor": 4}, {"shift": {"x": -30, "y": 20}}])
    assert step["after"]["x"] - step["before"]["x"] == -30
    assert step["after"]["y"] - step["before"]["y"] == 20


SIDE = st.integers(50, 4000)
SIZE = st.fixed_dictionaries({"width": SIDE, "height": SIDE})
POINT = st.fixed_dictionaries({"x": st.integers(-500, 2000), "y": st.integers(-500, 2000)})
CHANGE = st.fixed_dictionaries({"factor": st.floats(0.1, 10), "point": POINT, "shift": POINT})


@settings(max_examples=8, deadline=None)
@given(st.lists(CHANGE, min_size=1, max_size=20), SIZE, SIZE)
def test_picture_never_leaves_its_area(changes, area, picture):
    for step in run(changes, area, picture):
        assert 1 <= step["zoom"] <= 24
        for axis, side in (("x", "width"), ("y", "height")):
            start, length = step["after"][axis], picture[side] * step["after"]["scale"]
            if length <= area[side] + 1e-6:
                assert abs(start - (area[side] - length) / 2) < 1e-6, "in the middle"
            else:
                assert start <= 1e-6
                assert start + length >= area[side] - 1e-6
