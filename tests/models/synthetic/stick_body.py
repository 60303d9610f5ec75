"""A body of tubes in the files of MPFB2's: small, and of the groups, joints and bones that clothes need."""

import gzip
import json
from itertools import product
from pathlib import Path

import numpy as np

# Bones: parent, and the place of the head in decimetres.
BONES: dict[str, tuple[str, tuple[float, float, float]]] = {
    "root": ("", (0, 1, 0)), "spine02": ("root", (0, 3, 0)), "spine01": ("spine02", (0, 4, 0)),
    "neck01": ("spine01", (0, 6, 0)), "head": ("neck01", (0, 7, 0)),
    "eye.L": ("head", (0.3, 7.6, 0.8)), "eye.R": ("head", (-0.3, 7.6, 0.8)), "oris01": ("head", (0, 7.2, 0.9)),
    **{f"{name}.{side}": (f"{parent}.{side}" if limb else parent, (sign * x, y, z))
       for side, sign in (("L", 1), ("R", -1))
       for name, parent, limb, (x, y, z) in (
           ("upperarm01", "spine01", False, (1.5, 5.5, 0)), ("lowerarm01", "upperarm01", True, (3, 4, 0)),
           ("wrist", "lowerarm01", True, (4.5, 2.5, 0)), ("upperleg01", "root", False, (0.8, 0.6, 0)),
           ("lowerleg01", "upperleg01", True, (0.9, -3.5, 0)), ("foot", "lowerleg01", True, (1, -8, 0)),
       )},
}  # fmt: skip
LIMBS = (
    ("spine02", "neck01", 1.3), ("head", "head", 0.9),
    *((f"{a}.{side}", f"{b}.{side}", width) for side in "LR" for a, b, width in (
        ("upperarm01", "lowerarm01", 0.4), ("lowerarm01", "wrist", 0.3), ("wrist", "wrist", 0.3),
        ("upperleg01", "lowerleg01", 0.7), ("lowerleg01", "foot", 0.5), ("foot", "foot", 0.5),
    )),
)  # fmt: skip
AGES, GENDERS, ORIGINS = ("child", "young", "old"), ("female", "male"), ("african", "asian", "caucasian")


class _Mesh:
    def __init__(self) -> None:
        self.vertices: list[list[float]] = []
        self.lines: list[str] = []
        self.weights: dict[str, list[list[float]]] = {name: [] for name in BONES}

    def tube(self, bone: str, low: np.ndarray, high: np.ndarray, width: float) -> None:
        """A tube of eight rings of eight corners, closed by its narrow ends."""
        first, rings, around = len(self.vertices), 8, 8
        for ring, part in enumerate(np.linspace(0, 1, rings)):
            radius = 0.02 if ring in (0, rings - 1) else width
            for angle in np.arange(around) * 2 * np.pi / around:
                offset = np.array([np.cos(angle), 0, np.sin(angle)]) * radius
                self.weights[bone].append([len(self.vertices), 1.0])
                self.vertices.append([*(low * (1 - part) + high * part + offset)])
        for ring, corner in product(range(rings - 1), range(around)):
            a, b = first + ring * around + corner, first + ring * around + (corner + 1) % around
            self.lines.append(f"f {' '.join(str(one + 1) for one in (b, a, a + around, b + around))}")


def write_body(folder: Path) -> Path:
    """Write the files; the folder."""
    mesh, groups = _Mesh(), dict[str, list[list[int]]]()
    where = {name: np.array(place, float) for name, (_, place) in BONES.items()}
    for group, wider in (("body", 0.0), ("helper-tights", 0.02)):
        mesh.lines.append(f"g {group}")
        for start, end, width in LIMBS:
            if group == "body" or start != "head":
                low = where[start]
                high = where[end] if start != end else low + ((0, 1.8, 0) if start == "head" else (0, -0.45, 0))
                mesh.tube(start, low, high, width + wider)
    for group, bone, low, high, width in (
        ("helper-skirt", "root", (0, 1.5, 0), (0, -7, 0), 1.6),
        ("helper-hair", "head", (0, 8.8, -0.2), (0, 3, -0.2), 1.0),
        ("helper-l-eye", "eye.L", (0.3, 7.5, 0.8), (0.3, 7.7, 0.8), 0.15),
        ("helper-r-eye", "eye.R", (-0.3, 7.5, 0.8), (-0.3, 7.7, 0.8), 0.15),
    ):  # fmt: skip
        mesh.lines.append(f"g {group}")
        mesh.tube(bone, np.array(low, float), np.array(high, float), width)
    for bone, place in where.items():
        groups[f"joint-{bone}"] = [[len(mesh.vertices), len(mesh.vertices)]]
        mesh.weights[bone].append([len(mesh.vertices), 1.0])
        mesh.vertices.append([*place])
    rig = {
        name: {"parent": parent, "head": {"strategy": "CUBE", "cube_name": f"joint-{name}"}}
        for name, (parent, _) in BONES.items()
    }
    points = [f"v {x} {y} {z}" for x, y, z in mesh.vertices]
    for path, text in (
        ("3dobjs/base.obj", "\n".join([*points, *mesh.lines])),
        ("mesh_metadata/basemesh_vertex_groups.json", json.dumps(groups)),
        ("rigs/standard/rig.default.json", json.dumps(rig)),
        ("rigs/standard/weights.default.json", json.dumps({"weights": mesh.weights})),
        ("LICENSE.md", "# Creative Commons CC0 1.0 Universal\n"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    _write_targets(folder / "targets", len(mesh.vertices))
    return folder


def _write_targets(folder: Path, count: int) -> None:
    """Targets that move every vertex up by 1 for men, by 2 for the tall, and one brow to the front."""
    macros = folder / "macrodetails"
    everyone = "\n".join(f"{row} 0 1 0" for row in range(count))
    for gender, age in product(GENDERS, AGES):
        for origin in ORIGINS:
            write_target(macros / f"{origin}-{gender}-{age}", everyone if gender == "male" else "")
        for muscle, weight in product(("min", "average", "max"), repeat=2):
            shape = f"{gender}-{age}-{muscle}muscle-{weight}weight"
            write_target(macros / f"universal-{shape}", "")
            write_target(macros / f"height/{shape}-minheight", "")
            write_target(macros / f"height/{shape}-maxheight", everyone.replace(" 1 ", " 2 "))
    write_target(folder / "eyebrows/eyebrows-trans-up", "70 0 0 0.5\n71 0 0 0.25")


def write_target(path: Path, text: str) -> None:
    """Write a target: a comment, and lines of a vertex and its offset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.target.gz").write_bytes(gzip.compress(f"# a target\n{text}\n".encode()))
