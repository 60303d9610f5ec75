"""Plots as SVG: every point inside, round values on the axis."""

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from openset.curve_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curve_plot

NUMBERS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)
LINES = st.dictionaries(
    st.text(st.characters(exclude_categories=["C"]), max_size=8),
    st.lists(st.tuples(st.integers(0, 10**6), NUMBERS), min_size=1, max_size=6),
    min_size=1,
    max_size=10,
)


@given(LINES)
def test_every_point_lies_between_the_axes(lines):
    root = ElementTree.fromstring(curve_plot("a <title>", lines))
    drawn = [line.get("points") for line in root.iter() if line.tag.endswith("polyline")]
    assert len(drawn) == len(lines)
    for points in drawn:
        for point in points.split():
            x, y = map(float, point.split(","))
            assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
            assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1


def test_axis_has_round_values_around_the_line():
    text = curve_plot("Loss", {"loss": [(0, 0.13), (100, 0.87)]})
    marks = [float(value) for value in re.findall(r'dominant-baseline="middle">([^<]*)<', text)]
    assert marks == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert "step 100" in text
