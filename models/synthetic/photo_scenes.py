"""Scenes of photographic cut-outs and drawings, pasted on photographs, with tight boxes of what is visible.

Each picture is composed alone, at full resolution, with Pillow: cut-outs are larger than drawings, and resizing them
well matters more than speed.
"""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from models.synthetic.backgrounds import random_backgrounds
from models.synthetic.photo_pack import PERSON, PhotoPack
from models.synthetic.scene_prompts import SceneContents
from models.synthetic.scenes import HIDDEN, to_image
from models.synthetic.sprites import NamedObject, SpritePack

TRIES = 8  # positions tried for an object; the one that covers least of the others is taken
SOLID = 128  # alpha from which a pixel belongs to an object
Size = tuple[int, int]


@dataclass(frozen=True)
class PhotoSceneConfig:
    """Difficulty of scenes; sides are in parts of the picture's shorter side.

    drawn: share of objects that are drawings; people: of the others that are people, if there are any; painted: of
    backgrounds that are; main: of pictures with one large object; overlap: of objects put anywhere, also onto others;
    hidden: of pictures with a piece of another photograph before an object; degrade: strength of blur, noise, light and
    compression.
    """

    smallest: float = 0.1
    largest: float = 0.75
    most_objects: int = 5
    drawn: float = 0.3
    people: float = 0.0
    painted: float = 0.2
    main: float = 0.35
    overlap: float = 0.2
    hidden: float = 0.2
    degrade: float = 0.8


@dataclass(frozen=True)
class PhotoScene:
    """A picture and what it shows."""

    image: Image.Image
    contents: SceneContents


class _Pasted:
    """An object in a picture: its index, and the mask of its visible part in the whole picture."""

    def __init__(self, index: int, mask: Image.Image) -> None:
        self.index, self.mask, self._area = index, mask, _area(mask)

    def cover(self, mask: Image.Image) -> None:
        self.mask = ImageChops.multiply(self.mask, ImageChops.invert(mask))

    def is_visible(self) -> bool:
        return self._area > 0 and _area(self.mask) >= HIDDEN * self._area and self.box() is not None

    def box(self) -> tuple[int, int, int, int] | None:
        return self.mask.point(_solid).getbbox()


class PhotoSceneGenerator:
    """Composes scenes; the same random state gives the same picture.

    `objects` are those that may be drawn or pasted; `held_out`: with the cut-outs and photographs of validation.
    """

    def __init__(
        self, photographs: PhotoPack, sprites: SpritePack, objects: Sequence[NamedObject], *, held_out: bool
    ) -> None:
        self.objects = tuple(objects)
        self._backgrounds = photographs.held_out_backgrounds if held_out else photographs.backgrounds
        place = {item.label: index for index, item in enumerate(objects)}
        self._photos: dict[int, list[Image.Image]] = {}
        for one in photographs.cutouts:
            if one.held_out == held_out and one.label in place:
                self._photos.setdefault(place[one.label], []).append(one.image)
        self._drawings = {
            index: rows
            for index, item in enumerate(objects)
            if (rows := [row for slug in item.slugs for row in sprites.rows.get(slug, ())])
        }
        self._sprites = sprites
        self._photographed, self._drawable = sorted(self._photos), sorted(self._drawings)
        self._person = place.get(PERSON)

    def scene(self, size: Size, config: PhotoSceneConfig, rng: random.Random) -> PhotoScene:
        """A picture of `size` (height, width) with up to `most_objects` objects."""
        picture = self._background(size, config, rng)
        alone = rng.random() < config.main
        pasted: list[_Pasted] = []
        for turn in range(1 if alone and rng.random() < 0.5 else rng.randint(1, config.most_objects)):
            low, high = (0.5, 0.95) if alone and turn == 0 else (config.smallest, config.largest)
            self._paste(picture, pasted, low * (high / low) ** rng.random(), config, rng)
            if alone and turn == 0 and rng.random() < 0.6:
                break
        if pasted and rng.random() < config.hidden:
            self._hide(picture, pasted, rng)
        kept = [(one, box) for one in pasted if one.is_visible() and (box := one.box()) is not None]
        found = SceneContents([one.index for one, _ in kept], [box for _, box in kept], [-1] * len(kept), size)
        return PhotoScene(_degraded(picture, config.degrade, rng), found)

    def single(self, size: Size, config: PhotoSceneConfig, rng: random.Random) -> tuple[Image.Image, int]:
        """A picture of one object that is most of it, and the object's index."""
        picture, pasted = self._background(size, config, rng), list[_Pasted]()
        self._paste(picture, pasted, rng.uniform(config.smallest, config.largest), config, rng, spread=0.3)
        return _degraded(picture, config.degrade, rng), pasted[0].index

    def _background(self, size: Size, config: PhotoSceneConfig, rng: random.Random) -> Image.Image:
        height, width = size
        if rng.random() < config.painted or not self._backgrounds:
            return self._paint(size, rng)
        photo = rng.choice(self._backgrounds)
        part = rng.uniform(0.45, 1.0) * min(photo.width / width, photo.height / height)
        across, down = width * part, height * part
        left, top = rng.uniform(0, photo.width - across), rng.uniform(0, photo.height - down)
        picture = photo.resize(
            (width, height), Image.Resampling.BILINEAR, box=(left, top, left + across, top + down), reducing_gap=2.0
        )
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < 0.3:  # out of focus
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3.0)))
        return picture

    def _paint(self, size: Size, rng: random.Random) -> Image.Image:
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        rows = torch.randint(len(self._sprites.pixels), (16,), generator=generator)
        clutter = self._sprites.pixels[rows, -1].float() / 255
        return to_image(random_backgrounds(1, size, sprites=clutter, busy=1.0, generator=generator)[0])

    def _paste(
        self,
        picture: Image.Image,
        pasted: list[_Pasted],
        side: float,
        config: PhotoSceneConfig,
        rng: random.Random,
        *,
        spread: float = 1.0,
    ) -> None:
        """Paste one more object, its longer side `side` of the picture's shorter one."""
        index, cutout, is_photo = self._cutout(config, rng)
        layer = _posed(cutout, side * min(picture.size), is_photo, rng)
        left, top = _place(layer.size, picture.size, pasted, rng, free=rng.random() >= config.overlap, spread=spread)
        around = picture.crop((left, top, left + layer.width, top + layer.height))
        layer = _lit(layer, around, rng)
        alpha = layer.getchannel("A")
        if rng.random() < 0.35:
            _cast_shadow(picture, alpha, (left, top), rng)
        picture.paste(layer.convert("RGB"), (left, top), alpha)
        mask = Image.new("L", picture.size)
        mask.paste(alpha, (left, top))
        for earlier in pasted:
            earlier.cover(mask)
        pasted.append(_Pasted(index, mask))

    def _cutout(self, config: PhotoSceneConfig, rng: random.Random) -> tuple[int, Image.Image, bool]:
        if not self._photographed or (self._drawable and rng.random() < config.drawn):
            index = rng.choice(self._drawable)
            return index, self._drawing(rng.choice(self._drawings[index])), False
        is_person = config.people > 0 and self._person in self._photos and rng.random() < config.people
        index = self._person if is_person and self._person is not None else rng.choice(self._photographed)
        return index, rng.choice(self._photos[index]), True

    def _drawing(self, row: int) -> Image.Image:
        """A drawing with straight alpha, cropped."""
        values = self._sprites.pixels[row, 0].permute(1, 2, 0).numpy()
        image = Image.fromarray(values, "RGBa").convert("RGBA")
        return image.crop(image.getchannel("A").getbbox())

    def _hide(self, picture: Image.Image, pasted: list[_Pasted], rng: random.Random) -> None:
        """Put a piece of another picture before a side of the last object."""
        box = pasted[-1].box()
        if box is None:
            return
        width, height = box[2] - box[0], box[3] - box[1]
        piece = (max(2, round(width * rng.uniform(0.2, 0.6))), max(2, round(height * rng.uniform(0.2, 1.0))))
        photo = rng.choice(self._backgrounds) if self._backgrounds else picture
        left, top = rng.randrange(max(1, photo.width - piece[0])), rng.randrange(max(1, photo.height - piece[1]))
        patch = photo.crop((left, top, left + piece[0], top + piece[1]))
        at = (rng.choice((box[0], box[2] - piece[0])), rng.choice((box[1], box[3] - piece[1])))
        shape = Image.new("L", patch.size, 255)
        picture.paste(patch, at, shape)
        mask = Image.new("L", picture.size)
        mask.paste(shape, at)
        for one in pasted:
            one.cover(mask)


def _posed(cutout: Image.Image, side: float, is_photo: bool, rng: random.Random) -> Image.Image:
    """Resize, mirror, turn and recolour a cut-out."""
    scale, aspect = side / max(cutout.size), rng.uniform(0.88, 1.14)
    size = (max(3, round(cutout.width * scale * aspect)), max(3, round(cutout.height * scale)))
    layer = cutout.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if is_photo and rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.6:
        layer = layer.rotate(rng.gauss(0, 10), Image.Resampling.BICUBIC, expand=True)
    colours, alpha = layer.convert("RGB"), layer.getchannel("A")
    colours = ImageEnhance.Color(colours).enhance(rng.uniform(0.5, 1.4))
    colours = ImageEnhance.Contrast(colours).enhance(rng.uniform(0.75, 1.25))
    if rng.random() < 0.3:
        alpha = alpha.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    colours.putalpha(alpha)
    return colours.crop(alpha.point(_solid).getbbox() or (0, 0, *layer.size))


def _lit(layer: Image.Image, around: Image.Image, rng: random.Random) -> Image.Image:
    """Bring an object's brightness and tint nearer to those of its surroundings."""
    alpha = layer.getchannel("A")
    own, theirs = (np.asarray(image.resize((1, 1), Image.Resampling.BOX), np.float32)[0, 0, :3] for image in (
        layer.convert("RGB"), around.convert("RGB")
    ))  # fmt: skip
    ratio = ((theirs + 30) / (own + 30)) ** (0.4 * rng.random())
    gain = (ratio * rng.uniform(0.8, 1.2)).clip(0.45, 1.7)
    table = [min(255, int(value * float(gain[channel]))) for channel in range(3) for value in range(256)]
    lit = layer.convert("RGB").point(table)
    lit.putalpha(alpha)
    return lit


def _cast_shadow(picture: Image.Image, alpha: Image.Image, at: tuple[int, int], rng: random.Random) -> None:
    soft = alpha.filter(ImageFilter.GaussianBlur(max(1.0, 0.04 * max(alpha.size))))
    strength = rng.uniform(0.2, 0.55)
    shift = (round(rng.uniform(-0.08, 0.08) * alpha.width), round(rng.uniform(0.0, 0.08) * alpha.height))
    dark = Image.new("RGB", alpha.size)
    picture.paste(dark, (at[0] + shift[0], at[1] + shift[1]), soft.point([int(v * strength) for v in range(256)]))


def _place(
    size: tuple[int, int],
    canvas: tuple[int, int],
    pasted: Sequence[_Pasted],
    rng: random.Random,
    *,
    free: bool,
    spread: float,
) -> tuple[int, int]:
    """Choose the corner of an object: a tenth of it may lie outside; if `free`, where it covers least of others."""

    def corner(axis: int) -> int:
        room = canvas[axis] - 0.9 * size[axis]
        middle = (canvas[axis] - size[axis]) / 2
        return round(middle + (rng.random() - 0.5) * max(room, 0.1 * canvas[axis]) * spread)

    tries = [(corner(0), corner(1)) for _ in range(TRIES if free and pasted else 1)]
    boxes = [box for one in pasted if (box := one.box()) is not None]
    return min(tries, key=lambda at: sum(_shared((*at, at[0] + size[0], at[1] + size[1]), box) for box in boxes))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _degraded(picture: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Blur, few pixels, noise, light, a colour cast and compression, each of some pictures."""
    if rng.random() < 0.15 * strength:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.15 * strength:
        factor = rng.uniform(1.2, 2.2)
        few = picture.resize((round(picture.width / factor), round(picture.height / factor)), Image.Resampling.BOX)
        picture = few.resize(picture.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.25 * strength:
        grains = np.random.default_rng(rng.getrandbits(62)).normal(
            0, rng.uniform(2, 14), (picture.height, picture.width, 1)
        )
        picture = Image.fromarray(
            (np.asarray(picture, np.float32) + grains.astype(np.float32)).clip(0, 255).astype(np.uint8)
        )
    if rng.random() < 0.7 * strength:
        light = rng.uniform(0.75, 1.25)
        gains = [light * rng.uniform(0.92, 1.08) for _ in range(3)]
        picture = picture.point([min(255, int(value * gain)) for gain in gains for value in range(256)])
    if rng.random() < 0.3 * strength:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=rng.randint(25, 80))
        with Image.open(data) as file:
            picture = file.convert("RGB")
    return picture


def _solid(value: int) -> int:
    return 255 * (value >= SOLID)


def _area(mask: Image.Image) -> int:
    return sum(mask.histogram()[SOLID:])
