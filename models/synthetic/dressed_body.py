"""The mesh of a dressed person: a body, clothes and hair from its helper geometry, a hat and a bag."""

import random
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from models.synthetic.human_body import Floats, HumanBody, Ints
from models.synthetic.mesh_renderer import Bools, vertex_normals
from models.synthetic.people_wardrobe import Outfit, Surface

ARM = ("shoulder01", "upperarm", "lowerarm", "wrist", "finger", "metacarpal")
LEG, FOOT, HAND = ("upperleg", "lowerleg", "foot", "toe"), ("foot", "toe"), ("wrist", "finger", "metacarpal")
FACE = ("head", "jaw", "special", "oris", "levator", "temporalis", "oculi", "orbicularis", "risorius", "tongue", "eye")
MOUTH, JAW = ("oris",), ("jaw", "oris", "special", "risorius", "levator")
LEG_LENGTH = 8.6  # decimetres of an average body; lengths of clothes are in proportion


class Noise:
    """Smooth random numbers in space, three at each point."""

    def __init__(self, rng: random.Random) -> None:
        self._grids = np.random.default_rng(rng.getrandbits(60)).normal(size=(3, 24, 24, 24))

    def at(self, points: Floats, frequency: Floats | float) -> Floats:
        """Numbers [N, 3] at points [N, 3], in decimetres; frequency per decimetre."""
        place = (points * frequency).T
        return np.stack([ndimage.map_coordinates(grid, place, order=1, mode="grid-wrap") for grid in self._grids], 1)


@dataclass
class Mesh:
    """Vertices in the pose and in the rest pose [V, 3], triangles [F, 3] and their materials [F]."""

    posed: Floats
    rest: Floats
    faces: Ints
    materials: Ints

    def add(self, posed: Floats, rest: Floats, faces: Ints, material: Surface) -> None:
        """Add a part of one material."""
        self.faces = np.concatenate([self.faces, faces + len(self.posed)])
        self.materials = np.concatenate([self.materials, np.full(len(faces), material)])
        self.posed, self.rest = np.concatenate([self.posed, posed]), np.concatenate([self.rest, rest])


@dataclass(frozen=True)
class Places:
    """Points on a body: positions [N, 3], and shares [N] of arm, leg, head and neck, hand and foot."""

    points: Floats
    arm: Floats
    leg: Floats
    head: Floats
    hand: Floats
    foot: Floats


@dataclass
class Wardrobe:
    """Dresses bodies: what does not depend on one of them."""

    body: HumanBody
    places: Places = field(init=False)
    rows: dict[str, Ints] = field(init=False)

    def __post_init__(self) -> None:
        share = self.body.share
        empty = np.zeros((len(share("root")), 3))
        self.places = Places(empty, share(*ARM), share(*LEG), share("neck", *FACE), share(*HAND), share(*FOOT))
        self.rows = {name: np.unique(faces) for name, faces in self.body.faces.items()}


class DressedBody:
    """A body of the rest pose [V, 3] in an outfit."""

    def __init__(self, wardrobe: Wardrobe, shape: Floats, outfit: Outfit, noise: Noise) -> None:
        self._body, self._rows = wardrobe.body, wardrobe.rows
        self.shape, self._outfit, self._noise = shape, outfit, noise
        self.joints = joints = self._body.joints(shape)
        self._places = Places(shape, *list(vars(wardrobe.places).values())[1:])
        self._hip, ankle = joints["upperleg01.L"][1], joints["foot.L"][1]
        self._leg = self._hip - ankle
        self.unit = self._leg / LEG_LENGTH
        self._shoulder, self._wrist = joints["upperarm01.L"], joints["wrist.L"]
        body = shape[self._rows["body"]]
        self._eye = joints["eye.L"][1]
        self.forehead = body[:, 1].max() - self._eye  # height above the eyes
        self._middle = joints["head"][2] - 0.1
        self._front = body[np.abs(body[:, 1] - self._eye) < 0.3, 2].max()

    def mesh(self, turns: dict[str, Floats], rng: random.Random) -> tuple[Mesh, int]:
        """The mesh in a pose, and how many of its faces, the first ones, are of the closed skin."""
        vertices = self.shape.copy()
        parts = [self._skin(vertices), self._clothes(vertices), self._eyes()]
        if self._outfit.skirt:
            parts.append(self._skirt(vertices, rng))
        if self._outfit.hair == "long":
            parts.append(self._long_hair(vertices))
        faces, materials = (np.concatenate(column) for column in zip(*parts, strict=True))
        mesh = Mesh(self._body.posed(vertices, turns), vertices, faces, materials)
        self._add_things(mesh, self._body.joints(mesh.posed), rng)
        return mesh, len(parts[0][0])

    def _worn(self, places: Places) -> Ints:
        """The material at places [N]."""
        outfit, points = self._outfit, places.points
        aside = np.abs(points[:, 0])
        along_arm = (aside - self._shoulder[0]) / (self._wrist[0] - self._shoulder[0])
        along_leg = (self._hip - points[:, 1]) / self._leg
        is_arm, is_leg = places.arm > 0.5, places.leg > 0.5
        is_torso = ~is_arm & ~(places.head > 0.5)
        in_trousers = along_leg < max(outfit.trousers, 0.05)
        below_waist = points[:, 1] < self._hip + 0.9 * self.unit
        top = (is_torso | is_leg) & (points[:, 1] >= self._hip - outfit.hem * self.unit)
        top |= is_arm & (along_arm < outfit.sleeve) & (places.hand < 0.5)
        front = is_torso & (aside < outfit.opened * self.unit) & (points[:, 2] > 0)
        found = np.full(len(points), Surface.SKIN)
        found[in_trousers & ((is_torso & below_waist) | is_leg)] = Surface.BOTTOM
        found[top] = Surface.TOP
        found[is_leg & (1 - along_leg < outfit.shoes) | (places.foot > 0.5)] = Surface.SHOE
        found[(found == Surface.TOP) & front] = Surface.INNER
        return found

    def _worn_by(self, faces: Ints) -> Ints:
        """The materials of triangles, two of which are a face of the mesh with four corners."""
        corners = np.concatenate([faces[0::2], faces[1::2]], 1)
        return self._worn(Places(*(values[corners].mean(1) for values in vars(self._places).values()))).repeat(2)

    def _skin(self, vertices: Floats) -> tuple[Ints, Ints]:
        faces = self._body.faces["body"]
        materials = self._worn_by(faces)
        if self._outfit.hair != "bald":
            scalp = self._scalp()
            self._grow_hair(vertices, np.intersect1d(np.flatnonzero(scalp), self._rows["body"]))
            corners = np.concatenate([faces[0::2], faces[1::2]], 1)
            materials[(scalp[corners].mean(1) > 0.5).repeat(2)] = Surface.HAIR
        return faces, materials

    def _scalp(self) -> Bools:
        """Tell which vertices have hair: those above a line from the forehead past the ears to the nape."""
        depth = self.shape[:, 2]
        slope = 0.85 * (depth - self._middle) / (self._front - self._middle) - 0.25
        line = self._eye + self.forehead * np.where(depth > self._middle, slope, -0.55)
        self._above = (self.shape[:, 1] - line) / self.forehead
        return np.asarray((self._places.head > 0.5) & (self._above > 0))

    def _grow_hair(self, vertices: Floats, rows: Ints) -> None:
        centre = np.array([0, self._eye + 0.1 * self.forehead, self._middle])
        outward = self.shape[rows] - centre
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        length = self._outfit.volume * np.clip(2 * self._above[rows], 0.15, 1)
        vertices[rows] += outward * (length * (1 + 0.25 * self._noise.at(self.shape[rows], 3.0)[:, 0]))[:, None]

    def _clothes(self, vertices: Floats) -> tuple[Ints, Ints]:
        """Put the tights away from the skin, as far as what is worn there is loose."""
        faces, rows = self._body.faces["helper-tights"], self._rows["helper-tights"]
        places = Places(*(values[rows] for values in vars(self._places).values()))
        worn, outfit = self._worn(places), self._outfit
        below_shoulder = (self._shoulder[1] - places.points[:, 1]) / (3 * self.unit)
        hangs = np.where(places.arm > 0.5, 0.5, np.clip(below_shoulder, 0.15, 1))
        flares = np.clip((self._hip - places.points[:, 1]) / self._leg, 0.1, 1)
        is_top = np.isin(worn, (Surface.TOP, Surface.INNER))
        away = 0.06 + np.select(
            [worn == Surface.SHOE, is_top, worn == Surface.BOTTOM],
            [0.1, 0.06 + 0.3 * outfit.loose * hangs, 0.03 + 0.3 * outfit.wide * flares],
        )
        folds = 0.05 * self._noise.at(places.points, 1.1)[:, 0] + 0.025 * self._noise.at(places.points + 7, 2.3)[:, 1]
        away += np.where(worn == Surface.SHOE, 0, folds * (0.5 + outfit.loose))
        vertices[rows] += vertex_normals(self.shape, faces)[rows] * away[:, None]
        materials = self._worn_by(faces)
        shown = materials != Surface.SKIN
        return faces[shown], materials[shown]

    def _eyes(self) -> tuple[Ints, Ints]:
        faces = np.concatenate([self._body.faces["helper-l-eye"], self._body.faces["helper-r-eye"]])
        return faces, np.full(len(faces), Surface.EYE)

    def _skirt(self, vertices: Floats, rng: random.Random) -> tuple[Ints, Ints]:
        faces, rows = self._body.faces["helper-skirt"], self._rows["helper-skirt"]
        flares = np.clip((self._hip - self.shape[rows, 1]) / self._leg, 0, 1)
        folds = self._noise.at(self.shape[rows] * (1, 0.15, 1), 1.6)[:, 0]
        away = 0.12 + (0.25 * self._outfit.wide + 0.12 * folds) * flares
        vertices[rows] += vertex_normals(self.shape, faces)[rows] * away[:, None]
        centre = self.shape[faces].mean(1)
        shown = (self._hip - centre[:, 1]) / self._leg < self._outfit.skirt
        shown &= (np.abs(centre[:, 0]) >= self._outfit.opened * self.unit) | (centre[:, 2] <= 0)
        material = Surface.TOP if rng.random() < 0.7 else Surface.BOTTOM
        return faces[shown], np.full(int(shown.sum()), material)

    def _long_hair(self, vertices: Floats) -> tuple[Ints, Ints]:
        faces, rows = self._body.faces["helper-hair"], self._rows["helper-hair"]
        vertices[rows] += 0.05 * self._noise.at(self.shape[rows], 1.5)
        centre = self.shape[faces].mean(1)
        before_face = centre[:, 2] > self._middle + 0.35 * (self._front - self._middle)
        shown = ~(before_face & (centre[:, 1] < self._eye + 0.45 * self.forehead))
        shown &= centre[:, 1] > self._eye - (1.2 + self._outfit.length) * self.unit
        return faces[shown], np.full(int(shown.sum()), Surface.HAIR)

    def _add_things(self, mesh: Mesh, joints: dict[str, Floats], rng: random.Random) -> None:
        if self._outfit.bag:
            points, faces = ball(_BAGS[self._outfit.bag] * self.unit * rng.uniform(0.65, 1.1), 0.45)
            points = points + self._hung(joints, rng)
            mesh.add(points, points, faces, Surface.BAG)
        if self._outfit.hair == "bun":
            points, faces = ball(np.full(3, 0.45 * rng.uniform(0.7, 1.3)), 1.0)
            points += (0, self._eye + 0.35 * self.forehead, self._middle - 0.8 * self.forehead)
            mesh.add(self._with_head(points, joints), points, faces, Surface.HAIR)
        if self._outfit.hat:
            self._add_hat(mesh, joints, rng)

    def _hung(self, joints: dict[str, Floats], rng: random.Random) -> Floats:
        """The centre of a bag."""
        match self._outfit.bag:
            case "back":
                return (joints["spine01"] + joints["spine02"]) / 2 - (0, 0, 1.5 * self.unit)
            case "hand":
                return joints[f"wrist.{rng.choice('LR')}"] - (0, 2.3 * self.unit, 0)
            case _:
                side = rng.choice((1, -1))
                hip = joints["upperleg01.L" if side > 0 else "upperleg01.R"]
                return hip + np.array([1.2 * side, 0.6, rng.uniform(-1, 0.6)]) * self.unit

    def _add_hat(self, mesh: Mesh, joints: dict[str, Floats], rng: random.Random) -> None:
        """Add a crown with a brim all round, a peak to the front, or neither."""
        radii = self.forehead * np.array([0.72, 0.62, 0.85])
        centre = np.array([0, self._eye + 0.62 * self.forehead, self._middle - 0.02])
        crown, faces = ball(radii * (1, rng.uniform(0.9, 1.3), 1), rng.choice((1.0, 0.8)))
        crown[:, 1] = np.maximum(crown[:, 1], -0.1)
        parts = [(crown, faces)]
        if self._outfit.hat > 0.1:
            wide = 0.6 * self._outfit.hat
            parts.append(ball(np.array([radii[0] + wide, 0.05, radii[2] + wide]), 1.0))
        elif rng.random() < 0.5:
            peak, faces = ball(radii * (0.85, 0, 0.7) + (0, 0.05, 0), 1.0)
            parts.append((peak + np.array([0, 0.02, 0.8 * radii[2]]), faces))
        for points, faces in parts:
            mesh.add(self._with_head(points + centre, joints), points + centre, faces, Surface.BAG)

    def _with_head(self, points: Floats, joints: dict[str, Floats]) -> Floats:
        """Move points with the head (Kabsch 1976)."""
        names = ("eye.L", "eye.R", "head")
        before, after = (np.stack([own[name] for name in names]) for own in (self.joints, joints))
        u, _, vt = np.linalg.svd((before - before.mean(0)).T @ (after - after.mean(0)))
        mirror = np.diag([1, 1, np.linalg.det(vt.T @ u.T)])
        return np.asarray((points - before.mean(0)) @ (vt.T @ mirror @ u.T).T + after.mean(0))


_BAGS = {"back": np.array([1.3, 1.9, 0.7]), "hand": np.array([0.45, 1.3, 1.5]), "side": np.array([0.5, 1.0, 1.3])}


def ball(radii: Floats, power: float) -> tuple[Floats, Ints]:
    """Make a superellipsoid about 0: vertices [V, 3] and triangles [F, 3]; 1 is round, a small power is a box."""
    rows, columns = 17, 32
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]

    def squared(values: Floats) -> Floats:
        return np.asarray(np.sign(values) * np.abs(values) ** power)

    ring = squared(np.cos(latitude))
    points = np.stack(np.broadcast_arrays(
        ring * squared(np.cos(longitude)), squared(np.sin(latitude)), ring * squared(np.sin(longitude))
    ), -1)  # fmt: skip
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = (row * columns + column).ravel(), (row * columns + (column + 1) % columns).ravel()
    faces = np.concatenate([np.stack([a, b, a + columns], 1), np.stack([b, b + columns, a + columns], 1)])
    return points.reshape(-1, 3) * radii, faces
