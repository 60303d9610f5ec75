"""A parametric human body: MakeHuman's base mesh with its targets, rig and helper geometry, as MPFB2 keeps them (CC0).

Coordinates are MakeHuman's: decimetres, y up, z to the front, x to the body's left.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
AGES, MUSCLES, WEIGHTS = (
    ("child", "young", "old"),
    ("minmuscle", "averagemuscle", "maxmuscle"),
    ("minweight", "averageweight", "maxweight"),
)
INFLUENCES = 4  # bones that move a vertex, the strongest


@dataclass(frozen=True)
class Phenotype:
    """A body's measures, each 0..1.

    age: 0 a child, 0.5 young, 1 old; gender: 0 female, 1 male; muscle, weight and height: 0.5 average; origins: shares
    of MakeHuman's "african", "asian" and "caucasian", which sum to 1.
    """

    age: float = 0.5
    gender: float = 0.5
    muscle: float = 0.5
    weight: float = 0.5
    height: float = 0.5
    origins: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)


def rotation(axis: npt.ArrayLike, degrees: float) -> Floats:
    """The rotation matrix [3, 3] about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


class HumanBody:
    """Mesh, targets and rig of a folder `mpfb2`.

    faces: triangles [F, 3] of each group of the mesh ("body", "helper-tights", ...); influences: rows of `bones`
    [V, 4], and their strengths [V, 4].
    """

    def __init__(self, folder: Path) -> None:
        self._targets = folder / "targets"
        self._base, self.faces = _read_mesh(folder / "3dobjs" / "base.obj")
        rig = json.loads((folder / "rigs/standard/rig.default.json").read_text(encoding="utf-8"))
        groups = json.loads((folder / "mesh_metadata/basemesh_vertex_groups.json").read_text(encoding="utf-8"))
        self.bones = _parents_first({name: bone["parent"] for name, bone in rig.items()})
        row = {name: index for index, name in enumerate(self.bones)}
        self._parents = [row.get(rig[name]["parent"], -1) for name in self.bones]
        self._joints = [_vertices_of(rig[name]["head"], groups) for name in self.bones]
        weights = json.loads((folder / "rigs/standard/weights.default.json").read_text(encoding="utf-8"))["weights"]
        dense = np.zeros((len(self._base), len(self.bones)))
        for name, entries in weights.items():
            for vertex, weight in entries:
                dense[vertex, row[name]] = weight
        self.influences = np.argsort(-dense, axis=1)[:, :INFLUENCES]
        strengths = np.take_along_axis(dense, self.influences, 1)
        self.strengths = strengths / strengths.sum(1, keepdims=True)
        self._target = cache(self._read_target)

    def share(self, *prefixes: str) -> Floats:
        """The share of each vertex [V] that the bones whose names begin so move."""
        chosen = np.array([name.startswith(prefixes) for name in self.bones])
        return np.asarray((chosen[self.influences] * self.strengths).sum(1))

    def reach(self, target: str) -> Floats:
        """The way that a target moves each vertex [V], as a share of the longest."""
        rows, offsets = self._target(target)
        length = np.zeros(len(self._base))
        length[rows] = np.linalg.norm(offsets, axis=1)
        return np.asarray(length / length.max())

    def shaped(self, phenotype: Phenotype) -> Floats:
        """Vertices [V, 3] of a body in the rest pose."""
        vertices = self._base.copy()
        for name, weight in _macro_weights(phenotype):
            rows, offsets = self._target(name)
            vertices[rows] += weight * offsets
        return vertices

    def joints(self, vertices: Floats) -> dict[str, Floats]:
        """The heads [3] of the bones, by name."""
        return {name: vertices[rows].mean(0) for name, rows in zip(self.bones, self._joints, strict=True)}

    def posed(self, vertices: Floats, turns: Mapping[str, Floats]) -> Floats:
        """Turn bones about their heads, along axes of the rest pose, by rotations [3, 3] (linear blend skinning)."""
        heads = self.joints(vertices)
        moves = np.zeros((len(self.bones), 3, 4))
        for index, (name, parent) in enumerate(zip(self.bones, self._parents, strict=True)):
            turn = turns.get(name, np.eye(3))
            own = np.concatenate([turn, (heads[name] - turn @ heads[name])[:, None]], 1)
            if parent >= 0:
                own = moves[parent] @ np.concatenate([own, [[0, 0, 0, 1]]])
            moves[index] = own
        blended = (moves[self.influences] * self.strengths[..., None, None]).sum(1)
        return np.einsum("vij,vj->vi", blended[..., :3], vertices) + blended[..., 3]

    def _read_target(self, name: str) -> tuple[Ints, Floats]:
        with gzip.open(self._targets / f"{name}.target.gz", "rt", encoding="utf-8") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
        rows = np.array([line.split() for line in lines], float).reshape(-1, 4)
        return rows[:, 0].astype(np.int64), rows[:, 1:]


def _macro_weights(phenotype: Phenotype) -> list[tuple[str, float]]:
    """Names of targets, and their weights, as MakeHuman combines them."""
    genders = {"female": 1 - phenotype.gender, "male": phenotype.gender}
    ages = _between(AGES, phenotype.age)
    muscles, weights = _between(MUSCLES, phenotype.muscle), _between(WEIGHTS, phenotype.weight)
    heights = {"minheight": max(0.0, 1 - 2 * phenotype.height), "maxheight": max(0.0, 2 * phenotype.height - 1)}
    found = []
    for (gender, a), (age, b) in product(genders.items(), ages.items()):
        for origin, c in zip(("african", "asian", "caucasian"), phenotype.origins, strict=True):
            found.append((f"macrodetails/{origin}-{gender}-{age}", a * b * c))
        for (muscle, c), (weight, d) in product(muscles.items(), weights.items()):
            found.append((f"macrodetails/universal-{gender}-{age}-{muscle}-{weight}", a * b * c * d))
            for height, e in heights.items():
                name = f"macrodetails/height/{gender}-{age}-{muscle}-{weight}-{height}"
                found.append((name, a * b * c * d * e))
    return [(name, weight) for name, weight in found if weight > 0]


def _between(names: tuple[str, ...], value: float) -> dict[str, float]:
    """Shares of the two of three names that a value in 0..1 lies between."""
    place = value * (len(names) - 1)
    return {name: max(0.0, 1 - abs(place - index)) for index, name in enumerate(names)}


def _read_mesh(path: Path) -> tuple[Floats, dict[str, Ints]]:
    vertices, faces, group = [], dict[str, list[list[int]]](), ""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values])
        elif kind == "g":
            group = values[0]
        elif kind == "f":
            corners = [int(value.split("/")[0]) - 1 for value in values]
            triangles = [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
            faces.setdefault(group, []).extend(triangles)
    return np.array(vertices), {name: np.array(rows) for name, rows in faces.items()}


def _vertices_of(joint: dict[str, object], groups: dict[str, list[list[int]]]) -> Ints:
    """Rows of the vertices whose mean is a joint."""
    match joint["strategy"]:
        case "CUBE":
            return np.concatenate([np.arange(low, high + 1) for low, high in groups[str(joint["cube_name"])]])
        case "VERTEX":
            return np.array([joint["vertex_index"]], dtype=np.int64)
        case _:
            return np.array(joint["vertex_indices"], dtype=np.int64)


def _parents_first(parents: Mapping[str, str]) -> list[str]:
    ordered: list[str] = []

    def add(name: str) -> None:
        if name and name not in ordered:
            add(parents[name])
            ordered.append(name)

    for name in parents:
        add(name)
    return ordered
