"""Triangles are drawn where they are, the nearest first, and cast shadows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.synthetic.mesh_renderer import in_sun, rasterised, unit_vectors, vertex_normals

SQUARE = np.array([[0, 1, 2], [0, 2, 3]])


def square(left: float, top: float, side: float, depth: float) -> np.ndarray:
    return np.array([
        [left, top, depth], [left, top + side, depth], [left + side, top + side, depth], [left + side, top, depth],
    ])  # fmt: skip


@given(st.floats(1, 30), st.floats(1, 30), st.floats(2, 100))
def test_a_square_covers_the_pixels_whose_centres_it_covers(left: float, top: float, side: float):
    seen = rasterised(square(left, top, side, 5), SQUARE, (40, 50))
    rows, columns = np.arange(40) + 0.5, np.arange(50) + 0.5
    expected = ((rows > top) & (rows < top + side))[:, None] & ((columns > left) & (columns < left + side))
    found = np.zeros((40, 50), bool)
    found[seen.y, seen.x] = True
    on_edge = np.isclose(np.abs(rows - top), 0, atol=1e-4) | np.isclose(np.abs(rows - top - side), 0, atol=1e-4)
    beside = np.isclose(np.abs(columns - left), 0, atol=1e-4) | np.isclose(np.abs(columns - left - side), 0, atol=1e-4)
    assert (found == expected)[~on_edge][:, ~beside].all()
    assert len(seen.y) == found.sum()  # each pixel once


def test_values_of_vertices_are_interpolated_at_the_pixels():
    points = square(2, 3, 20, 5)
    seen = rasterised(points, SQUARE, (40, 40))
    place = seen.of(points, SQUARE)
    assert np.allclose(place[:, 0], seen.x + 0.5)
    assert np.allclose(place[:, 1], seen.y + 0.5)


def test_what_is_nearer_hides_what_is_behind():
    points, faces = np.concatenate([square(2, 2, 20, 9), square(8, 8, 4, 3)]), np.concatenate([SQUARE, SQUARE + 4])
    seen = rasterised(points, faces, (30, 30))
    inner = (seen.x >= 8) & (seen.x < 12) & (seen.y >= 8) & (seen.y < 12)
    assert (seen.triangle[inner] >= 2).all()
    assert (seen.triangle[~inner] < 2).all()


def test_normals_point_out_and_have_unit_length():
    normals = vertex_normals(square(0, 0, 2, 0), SQUARE)
    assert np.allclose(np.abs(normals), [[0, 0, 1]] * 4)
    assert np.allclose(unit_vectors(np.array([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0]])), [[0, 0.6, 0.8], [0, 0, 0]])


def test_a_roof_shades_the_ground_below_it():
    ground, roof = square(0, 0, 10, 0)[:, [0, 2, 1]], square(3, 3, 4, 2)[:, [0, 2, 1]]
    vertices, faces = np.concatenate([ground, roof]), np.concatenate([SQUARE, SQUARE + 4])
    below, beside, above = [5, 0.01, 5], [1, 0.01, 1], [5, 2.01, 5]
    lit = in_sun(vertices, faces, np.array([below, beside, above]), np.array([0.0, 1.0, 0.0]))
    assert lit.tolist() == [False, True, True]
