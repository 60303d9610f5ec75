"""Rendered people: random bodies, poses, clothes, hair and light, cut out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from models.synthetic.dressed_body import JAW, MOUTH, DressedBody, Mesh, Noise, Wardrobe
from models.synthetic.human_body import Floats, HumanBody, Ints, Phenotype, rotation
from models.synthetic.mesh_renderer import Fragments, in_sun, rasterised, unit_vectors, vertex_normals
from models.synthetic.people_poses import random_pose
from models.synthetic.people_wardrobe import Outfit, Surface, random_outfit, random_phenotype, random_skin

SIDE = 256  # pixels of a cut-out's longer side; drawn twice as large
RIM = 4  # pixels around what is drawn
PARTS = {1.0: 6.0, 0.72: 1.2, 0.55: 1.5, 0.36: 1.2, 0.2: 0.6}  # of the height that is shown, from above: how often
GAMMA = 2.2
Size = tuple[int, int]


@dataclass(frozen=True)
class _View:
    """A picture from a camera: pixels of a picture of `size` (height, width), and the camera's place [3]."""

    seen: Fragments
    faces: Ints
    materials: Ints
    camera: Floats
    size: Size
    focal: float


class PersonRenderer:
    """Draws people; the same random state gives the same one."""

    def __init__(self, body: HumanBody, pictures: Sequence[Image.Image]) -> None:
        """pictures: photographs, pieces of which are fabrics."""
        self._body, self._pictures, self._wardrobe = body, pictures, Wardrobe(body)
        self._mouth, self._jaw = body.share(*MOUTH), body.share(*JAW)
        self._brow = body.reach("eyebrows/eyebrows-trans-up")

    def draw(self, rng: random.Random) -> Image.Image:
        """Draw a person: RGBA, cropped, or what is above a line."""
        phenotype = random_phenotype(rng)
        outfit, noise = random_outfit(rng, phenotype, self._pictures), Noise(rng)
        dressed = DressedBody(self._wardrobe, self._body.shaped(phenotype), outfit, noise)
        mesh, closed = dressed.mesh(random_pose(rng), rng)
        yaw = rng.gauss(0, 50) if rng.random() < 0.6 else rng.uniform(-180, 180)
        world = mesh.posed @ rotation((0, 1, 0), yaw).T
        world[:, 1] -= world[np.unique(mesh.faces), 1].min()
        view = _view(world, mesh, closed, rng)
        albedo = self._albedo(view, mesh, dressed, phenotype, outfit, noise, rng)
        return _picture(view, _lit(view, world, mesh, albedo, noise, rng))

    def _albedo(
        self,
        view: _View,
        mesh: Mesh,
        dressed: DressedBody,
        phenotype: Phenotype,
        outfit: Outfit,
        noise: Noise,
        rng: random.Random,
    ) -> Floats:
        """Linear colours [N, 3] of what is seen, without light."""
        points, materials = view.seen.of(mesh.rest, view.faces), view.materials
        skin, hair = random_skin(rng, phenotype)
        colours = self._skin(view, mesh, dressed, outfit, points, skin, hair)
        rough, fine = noise.at(points, 5.0)[:, :1], noise.at(points + 1, 11.0)[:, :1]
        colours *= 1 + 0.03 * rough
        strands = noise.at(points * (1, 0.2, 1), 14.0)[:, :1].clip(-1.5, 1.5)
        is_hair, is_eye = materials == Surface.HAIR, materials == Surface.EYE
        colours[is_hair] = (hair * (1 + 0.35 * strands))[is_hair]
        eye = dressed.joints["eye.L"]
        from_pupil = np.hypot(np.abs(points[:, 0]) - eye[0], points[:, 1] - eye[1])
        colours[is_eye] = np.where(from_pupil[is_eye, None] < 0.075, (40, 30, 25), (225, 220, 215))
        for material, fabric in outfit.fabrics.items():
            worn = materials == material
            colours[worn] = fabric.at(points[worn]) * (1 + 0.025 * rough[worn] + 0.03 * fine[worn])
        return np.asarray((colours.clip(0, 255) / 255) ** GAMMA)

    def _skin(
        self, view: _View, mesh: Mesh, dressed: DressedBody, outfit: Outfit, points: Floats, skin: Floats, hair: Floats
    ) -> Floats:
        """Skin with lips, brows and a beard: colours [N, 3], 0..255."""

        def above(shares: Floats, least: float, slope: float) -> Floats:
            padded = np.concatenate([shares, np.zeros(len(mesh.rest) - len(shares))])
            return np.asarray((slope * (view.seen.of(padded, view.faces) - least)).clip(0, 1))[:, None]

        lips = above(self._mouth, 0.6, 4) * (np.abs(points[:, :1]) < 0.3)
        colours = skin * (1 - lips * np.array([0.1, 0.35, 0.3]))
        brows = 0.7 * above(self._brow, 0.7, 4)
        below_eyes = points[:, 1:2] < dressed.joints["eye.L"][1] - 0.45
        beard = 0.8 * outfit.beard * above(self._jaw, 0.5, 3) * below_eyes
        for share in (brows, beard):
            colours = colours * (1 - share) + hair * share
        return colours


def _view(world: Floats, mesh: Mesh, closed: int, rng: random.Random) -> _View:
    """Look at a person, or at the upper part, from a random place; the mesh's first `closed` faces have no back."""
    used = np.unique(mesh.faces)
    low, high = world[used].min(0), world[used].max(0)
    tall = high[1]
    (part,) = rng.choices(list(PARTS), list(PARTS.values()))
    distance = rng.uniform(25, 110) if part > 0.5 else rng.uniform(12, 60)
    eye = tall * rng.uniform(0.5, 1.05) if rng.random() < 0.5 else rng.uniform(14, 40)
    middle = (low + high) / 2
    camera = np.array([middle[0], eye, middle[2] + distance])
    forward = unit_vectors(np.array([middle[0], tall * (1 - part / 2), middle[2]]) - camera)
    right = unit_vectors(np.cross(forward, (0, 1, 0)))
    seen = (world - camera) @ np.stack([right, np.cross(forward, right), forward]).T
    flat = seen[:, :2] / seen[:, 2:]
    top, bottom = flat[used, 1].min(), flat[used, 1].max()
    shown = flat[used][flat[used, 1] <= top + part * (bottom - top)]
    corner, extent = shown.min(0), np.ptp(shown, axis=0)
    focal = (2 * SIDE - 2 * RIM) / max(extent)
    size = (int(extent[1] * focal) + 2 * RIM, int(extent[0] * focal) + 2 * RIM)
    points = np.concatenate([(flat - corner) * focal + RIM, seen[:, 2:]], 1)
    a, b, c = (points[mesh.faces[:, k], :2] for k in range(3))
    faces_camera = (b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]
    faces_camera[closed:] = True
    faces, materials = mesh.faces[faces_camera], mesh.materials[faces_camera]
    found = rasterised(points, faces, size)
    return _View(found, faces, materials[found.triangle], camera, size, focal)


def _lit(view: _View, world: Floats, mesh: Mesh, albedo: Floats, noise: Noise, rng: random.Random) -> Floats:
    """Colours [N, 3], 0..1, in the light of a sun, the sky and the ground."""
    place, points = view.seen.of(world, view.faces), view.seen.of(mesh.rest, view.faces)
    toward = unit_vectors(view.camera - place)
    normals = view.seen.of(vertex_normals(world, mesh.faces), view.faces)
    normals = np.where((normals * toward).sum(1, keepdims=True) < 0, -normals, normals)
    normals = unit_vectors(normals + _folds(points, view.materials, noise, rng))
    azimuth, height = rng.uniform(-2.6, 2.6), np.radians(rng.uniform(20, 75))
    sun = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    strength = rng.choice((0.15, rng.uniform(0.2, 0.7), rng.uniform(0.8, 1.8)))
    sunlight = strength * np.array([1, rng.uniform(0.88, 1), rng.uniform(0.7, 1)])
    reached = in_sun(world, mesh.faces, place + 0.08 * normals, sun)[:, None]
    sky = np.array([rng.uniform(0.8, 1), 0.95, rng.uniform(0.95, 1.15)]) * rng.uniform(0.5, 0.9)
    ground = np.array([1, 0.95, 0.88]) * rng.uniform(0.15, 0.45)
    up = (normals[:, 1:2] + 1) / 2
    light = (ground * (1 - up) + sky * up) * _openness(view)[:, None]
    light = light + sunlight * (normals @ sun).clip(0)[:, None] * reached
    gloss = np.select([view.materials == Surface.HAIR, view.materials == Surface.SKIN], [0.25, 0.06], 0.03)
    shine = gloss * (normals * unit_vectors(toward + sun)).sum(1).clip(0) ** 24
    colours = albedo * light + sunlight * shine[:, None] * reached
    exposure = 0.75 * rng.uniform(0.75, 1.35) / max(0.25, float(light.mean()))
    return np.asarray((colours * exposure).clip(0, 1) ** (1 / GAMMA))


def _folds(points: Floats, materials: Ints, noise: Noise, rng: random.Random) -> Floats:
    """Turns of the normals [N, 3]: folds of cloth, strands of hair."""
    folds = 0.36 * noise.at(points * (1, 0.45, 1), 1.3) + 0.2 * noise.at(points * (0.5, 1, 0.5) + 3, 2.4)
    folds += 0.06 * noise.at(points + 5, 5.0)
    is_cloth = np.isin(materials, (Surface.TOP, Surface.INNER, Surface.BOTTOM, Surface.BAG))
    depth = np.where(is_cloth, rng.uniform(0.4, 1.3), np.where(materials == Surface.HAIR, 0.9, 0.06))
    return np.asarray(folds * depth[:, None])


def _openness(view: _View) -> Floats:
    """The share of the sky that reaches each pixel [N]: less where what is around it is nearer to the camera."""
    seen = view.seen
    depth, covered = np.zeros(view.size), np.zeros(view.size)
    depth[seen.y, seen.x], covered[seen.y, seen.x] = seen.depth, 1
    openness = np.ones(view.size)
    for reach, strength in ((13, 0.35), (37, 0.3)):
        around = ndimage.uniform_filter(depth, reach) / np.maximum(ndimage.uniform_filter(covered, reach), 1e-3)
        openness -= strength * ((depth - around) / 0.5).clip(0, 1)
    return np.asarray(openness[seen.y, seen.x].clip(0.35, 1))


def _picture(view: _View, colours: Floats) -> Image.Image:
    """The cut-out, half as large as it is drawn."""
    drawn = np.zeros((*view.size, 4))
    drawn[view.seen.y, view.seen.x] = np.concatenate([colours, np.ones((len(colours), 1))], 1)
    image = Image.fromarray((255 * drawn).astype(np.uint8), "RGBa")  # premultiplied: outside of it all is 0
    image = image.resize((-(-view.size[1] // 2), -(-view.size[0] // 2)), Image.Resampling.BOX).convert("RGBA")
    return image.crop(image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox())
