"""Draw triangle meshes on the CPU: a depth buffer of numpy, and light of a sun with shadows and of the sky."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
EDGE = 1e-6
STEPS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])
LARGEST = 128  # pixels of a triangle's side in the picture; larger ones are not drawn
SHADOW_SIDE = 256  # pixels of the map of what the sun sees
BIAS = 0.12  # depth by which a point must lie behind what the sun sees to be in its shadow


@dataclass(frozen=True)
class Fragments:
    """The visible part of a mesh: pixels (y, x) [N], triangles [N], weights of their corners [N, 3] and depths [N]."""

    y: Ints
    x: Ints
    triangle: Ints
    weights: Floats
    depth: Floats

    def of(self, values: Floats, faces: Ints) -> Floats:
        """Values [V, ...] of the vertices at the pixels [N, ...]."""
        corners = values[faces[self.triangle]]
        return np.einsum("nk,nk...->n...", self.weights, corners)


def rasterised(points: Floats, faces: Ints, size: tuple[int, int]) -> Fragments:
    """Find the nearest triangle in each pixel; points [V, 3]: x, y in pixels of a picture (height, width), depth."""
    height, width = size
    corners = points[faces]
    low = np.ceil(corners[..., :2].min(1) - 0.5).astype(int)  # the first and the last pixel whose centre may be inside
    high = np.floor(corners[..., :2].max(1) - 0.5).astype(int)
    extent = high - low + 1
    area = _cross(corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2])
    drawn = (extent > 0).all(1) & (extent <= LARGEST).all(1) & (np.abs(area) > 1e-9)
    drawn &= (high >= 0).all(1) & (low < (width, height)).all(1)
    rows = np.flatnonzero(drawn)
    step = np.searchsorted(STEPS, extent[rows])
    found = []
    for kind in np.unique(step, axis=0):
        alike = rows[(step == kind).all(1)]
        span = (STEPS[kind[0]], STEPS[kind[1]])
        for part in np.array_split(alike, 1 + len(alike) * span[0] * span[1] // 500_000):
            found.append(_covered(corners, area, low, part, span, size))
    y, x, triangle, weights, depth = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((depth, y * width + x))
    cell = (y * width + x)[order]
    nearest = order[np.concatenate([[True], cell[1:] != cell[:-1]])]
    return Fragments(y[nearest], x[nearest], triangle[nearest], weights[nearest], depth[nearest])


def _covered(
    corners: Floats, area: Floats, low: Ints, rows: Ints, span: tuple[int, int], size: tuple[int, int]
) -> tuple[Ints, Ints, Ints, Floats, Floats]:
    """The pixels inside triangles `rows` among `span` (x, y) pixels from `low`."""
    x, y = low[rows, 0, None] + np.arange(span[0]), low[rows, 1, None] + np.arange(span[1])
    edges = []
    for k in (1, 2):  # weights of the first two corners, as far as x and y add to them
        (bx, by), (cx, cy) = corners[rows, k, :2].T, corners[rows, (k + 1) % 3, :2].T
        across, down = (by - cy) / area[rows], (cx - bx) / area[rows]
        edges.append(
            (across[:, None] * (x + 0.5 - bx[:, None]))[:, None] + (down[:, None] * (y + 0.5 - by[:, None]))[..., None]
        )
    first, second = edges
    third = 1 - first - second
    inside = (first >= -EDGE) & (second >= -EDGE) & (third >= -EDGE)
    inside &= ((y >= 0) & (y < size[0]))[..., None] & ((x >= 0) & (x < size[1]))[:, None]
    row, down_, across_ = np.nonzero(inside)
    weights = np.stack([first[inside], second[inside], third[inside]], -1)
    depth = (weights * corners[rows[row], :, 2]).sum(1)
    return y[row, down_], x[row, across_], rows[row], weights, depth


def _cross(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def unit_vectors(vectors: Floats) -> Floats:
    """Vectors [..., 3] of length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def vertex_normals(vertices: Floats, faces: Ints) -> Floats:
    """Unit normals of the vertices [V, 3], weighted by area."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    columns = [np.bincount(faces.ravel(), normals[:, k].repeat(3), minlength=len(vertices)) for k in range(3)]
    return unit_vectors(np.stack(columns, 1).astype(np.float64))


def in_sun(vertices: Floats, faces: Ints, seen: Floats, sun: Floats) -> Bools:
    """Tell which points [N, 3] the sun, in direction [3], reaches past the mesh."""
    across = unit_vectors(np.cross(sun, (0.0, 1.0, 0.1)))
    axes = np.stack([across, np.cross(sun, across), -sun])
    mapped, points = vertices @ axes.T, seen @ axes.T
    low, high = mapped.min(0), mapped.max(0)
    scale = (SHADOW_SIDE - 4) / max(high[0] - low[0], high[1] - low[1])

    def to_map(values: Floats) -> Floats:
        return np.concatenate([(values[:, :2] - low[:2]) * scale + 2, values[:, 2:]], 1)

    view = rasterised(to_map(mapped), faces, (SHADOW_SIDE, SHADOW_SIDE))
    nearest = np.full((SHADOW_SIDE, SHADOW_SIDE), np.inf)
    nearest[view.y, view.x] = view.depth
    x, y = to_map(points)[:, :2].astype(int).clip(0, SHADOW_SIDE - 1).T
    return np.asarray(points[:, 2] <= nearest[y, x] + BIAS)
