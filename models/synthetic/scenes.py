"""Seeded generator of pictures with known content: drawings on varied backgrounds, with tight boxes.

Everything is drawn with batched tensor operations, so that rendering costs little beside the network.
"""

from dataclasses import dataclass, fields, replace

import torch
from PIL import Image
from torch import Tensor

from models.synthetic.backgrounds import random_backgrounds, random_shapes
from models.synthetic.compositing import ALPHA_THRESHOLD, Placement, alpha_boxes, random_pose, render_sprites
from models.synthetic.corruptions import corrupt
from models.synthetic.sprites import SIDE, NamedObject, SpritePack
from models.synthetic.style_augmentation import PAINTS, augment_style, jitter_sprite_colours, paint

TRIES = 12  # positions tried for an object; the one that covers least of the others is taken
HIDDEN = 0.3  # an object is not counted if less than this share of it is visible
HALF_UP_TO = 0.75  # share of a drawing's stored side up to which the half-size drawing is used
WARP = 4  # places per side by which a drawing is bent
COLOUR_WORDS = tuple(PAINTS)
HANDED = {"left", "right", "first", "last", "waxing", "waning"}  # words of names that a mirrored drawing would break


@dataclass(frozen=True)
class SceneConfig:
    """Difficulty of scenes; sides are in parts of the picture's shorter side.

    colour: strength of colour changes; restyle: of changes of drawing style (`style_augmentation`); degrade: of
    blur, noise, light and compression; warp: how far a drawing is bent, in halves of its side; painted: share of
    objects painted in one named colour; overlap: of those put anywhere, also onto others; repeated: of those that show
    what another of their picture does; shapes: most meaningless shapes a picture.
    """

    smallest: float = 0.4
    largest: float = 1.0
    colour: float = 0.25
    turn: float = 0.35
    busy: float = 1.0
    degrade: float = 1.0
    most_objects: int = 5
    restyle: float = 0.0
    warp: float = 0.0
    painted: float = 0.0
    overlap: float = 0.0
    shapes: int = 0
    repeated: float = 0.0

    def toward(self, other: "SceneConfig", part: float) -> "SceneConfig":
        """Interpolate to another difficulty, of which `part` is 1."""
        values = {}
        for field in fields(SceneConfig):
            here, there = getattr(self, field.name), getattr(other, field.name)
            value = here * (1 - part) + there * part
            values[field.name] = round(value) if isinstance(there, int) else value
        return SceneConfig(**values)


EASY = SceneConfig(
    smallest=0.75, largest=1.0, colour=0.08, turn=0.1, busy=0.2, degrade=0.0, most_objects=5,
    restyle=0.2, warp=0.02,
)  # fmt: skip
HARD = SceneConfig(restyle=1.0, warp=0.08, painted=0.05, overlap=0.25, shapes=3, repeated=0.15)


@dataclass(frozen=True)
class SingleBatch:
    """Pictures [B, 3, S, S] in 0..1 of one object each, and the objects' indices [B]."""

    pixels: Tensor
    objects: Tensor


@dataclass(frozen=True)
class SceneBatch:
    """Pictures [B, 3, H, W] in 0..1; for each, boxes x0, y0, x1, y1 in pixels [n, 4] around the visible parts of its
    objects, their indices [n], and the index in `COLOUR_WORDS` of each one's paint [n], -1 for its own colours.
    """

    pixels: Tensor
    boxes_xyxy: list[Tensor]
    objects: list[Tensor]
    colours: list[Tensor]


class SceneGenerator:
    """Draws endless batches; the same seed gives the same pictures."""

    def __init__(self, pack: SpritePack, objects: tuple[NamedObject, ...], *, seed: int) -> None:
        self.objects = objects
        self.generator = torch.Generator().manual_seed(seed)
        self._pack = pack
        self._rows = [tuple(row for rows in pack.rows_of(item.slugs) for row in rows) for item in objects]
        self._handed = torch.tensor([bool(set(item.label.split()) & HANDED) for item in objects])
        # Objects with a colour in their name keep it.
        self._paintable = torch.tensor([not set(item.label.split()) & set(COLOUR_WORDS) for item in objects])

    def single(self, batch: int, size: tuple[int, int], config: SceneConfig) -> SingleBatch:
        """One object a picture, near enough to the middle that the centre square holds most of it."""
        chosen = self._integers(len(self.objects), batch)
        side = self._sides(batch, size, config)
        room = (min(size) - side).clamp(min=0.12 * min(size))[:, None]
        middle = torch.tensor([size[1] / 2, size[0] / 2])
        centre = middle + (self._uniform(batch, 2) - 0.5) * room
        place = Placement(centre, side, *random_pose(batch, max_angle=config.turn, generator=self.generator))
        picture = self._background(batch, size, config)
        layer, _ = self._layer(chosen, place, size, config)
        picture = _over(picture, layer)
        if config.overlap:
            picture = self._with_something_before(picture, place, config)
        return SingleBatch(corrupt(picture, config.degrade, self.generator), chosen)

    def scenes(self, batch: int, size: tuple[int, int], config: SceneConfig) -> SceneBatch:
        """One to `most_objects` objects a picture, each visible enough to be recognised."""
        counts = torch.randint(1, config.most_objects + 1, (batch,), generator=self.generator)
        picture = self._background(batch, size, config)
        taken = torch.zeros(batch, 0, 4)
        latest_objects = torch.zeros(batch, dtype=torch.long)
        shown: list[list[_DrawnObject]] = [[] for _ in range(batch)]
        for turn in range(int(counts.max())):
            rows = (counts > turn).nonzero()[:, 0]
            chosen = self._integers(len(self.objects), len(rows))
            again = (self._uniform(len(rows)) < config.repeated) & (turn > 0)
            chosen = torch.where(again, latest_objects[rows], chosen)
            latest_objects[rows] = chosen
            place = self._free_place(taken[rows], size, config)
            layer, colours = self._layer(chosen, place, size, config)
            picture[rows] = _over(picture[rows], layer)
            alpha = layer[:, 3]
            boxes, any_pixel = alpha_boxes(alpha)
            latest = torch.zeros(batch, 1, 4)
            latest[rows, 0] = boxes * any_pixel[:, None]
            taken = torch.cat([taken, latest], 1)
            for index, row in enumerate(rows.tolist()):
                for earlier in shown[row]:
                    earlier.cover(alpha[index])
                if any_pixel[index]:
                    shown[row].append(_DrawnObject(chosen[index], colours[index], alpha[index]))
        kept = [[item for item in row if item.is_visible()] for row in shown]
        none = torch.zeros(0, dtype=torch.long)
        return SceneBatch(
            corrupt(picture, config.degrade, self.generator),
            [alpha_boxes(torch.stack([item.alpha for item in row]))[0] if row else torch.zeros(0, 4) for row in kept],
            [torch.stack([item.index for item in row]) if row else none for row in kept],
            [torch.stack([item.colour for item in row]) if row else none for row in kept],
        )

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator)

    def _sides(self, count: int, size: tuple[int, int], config: SceneConfig) -> Tensor:
        return config.smallest * (config.largest / config.smallest) ** self._uniform(count) * min(size)

    def _free_place(self, taken: Tensor, size: tuple[int, int], config: SceneConfig) -> Placement:
        """Place one more object in each picture whose boxes so far are `taken` [B, n, 4]."""
        batch = len(taken)
        side = self._sides(batch, size, config)
        extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
        room = (extent - 0.9 * side[:, None]).clamp(min=1)[:, None]  # [B, 1, 2]
        tries = extent / 2 + (self._uniform(batch, TRIES, 2) - 0.5) * room  # [B, TRIES, 2]
        half = side[:, None, None] / 2
        corner = torch.minimum((tries + half)[:, :, None], taken[:, None, :, 2:]) - torch.maximum(
            (tries - half)[:, :, None], taken[:, None, :, :2]
        )  # [B, TRIES, n, 2]
        covered = corner.clamp(min=0).prod(-1).sum(-1)  # [B, TRIES]
        best = torch.where(self._uniform(batch) < config.overlap, 0, covered.argmin(1))
        centre = tries[torch.arange(batch), best]
        return Placement(centre, side, *random_pose(batch, max_angle=config.turn, generator=self.generator))

    def _background(self, batch: int, size: tuple[int, int], config: SceneConfig) -> Tensor:
        clutter = self._pack.pixels[self._integers(len(self._pack.pixels), 16), -1].float() / 255
        picture = random_backgrounds(batch, size, sprites=clutter, busy=config.busy, generator=self.generator)
        for _ in range(int(torch.randint(config.shapes + 1, (), generator=self.generator))):
            rows = (self._uniform(batch) < 0.5).nonzero()[:, 0]
            if len(rows):
                place = Placement.random(
                    len(rows), size, min_side=0.05, max_side=0.6, max_angle=3.1, generator=self.generator
                )
                shapes = random_shapes(len(rows), self.generator)
                picture[rows] = _over(picture[rows], render_sprites(shapes, place, size))
        return picture

    def _with_something_before(self, picture: Tensor, behind: Placement, config: SceneConfig) -> Tensor:
        """Draw a shape over the rim of some of the objects `behind`."""
        rows = (self._uniform(len(picture)) < config.overlap).nonzero()[:, 0]
        if len(rows):
            angle = self._uniform(len(rows)) * 2 * torch.pi
            side = behind.side[rows] * (0.2 + 0.4 * self._uniform(len(rows)))
            reach = (behind.side[rows] / 2)[:, None]
            centre = behind.centre[rows] + torch.stack([angle.cos(), angle.sin()], 1) * reach
            place = Placement(centre, side, *random_pose(len(rows), max_angle=3.1, generator=self.generator))
            size = (picture.shape[2], picture.shape[3])
            shapes = random_shapes(len(rows), self.generator)
            picture[rows] = _over(picture[rows], render_sprites(shapes, place, size))
        return picture

    def _layer(
        self, chosen: Tensor, place: Placement, size: tuple[int, int], config: SceneConfig
    ) -> tuple[Tensor, Tensor]:
        """Draw the chosen objects [B, 4, H, W]; also returns the colours they are painted in [B]."""
        batch = len(chosen)
        level = (SIDE / place.side).log2().floor().long().clamp(0, self._pack.pixels.shape[1] - 1)
        drawings = self._drawings(self._some_drawing(chosen), level, float(place.side.max()))
        if config.restyle:
            others = self._drawings(self._some_drawing(chosen), level, float(place.side.max()))
            drawings = augment_style(drawings, others, config.restyle, self.generator)
        drawings = jitter_sprite_colours(drawings, config.colour, self.generator)
        colours = self._integers(len(COLOUR_WORDS), batch)
        plain = (self._uniform(batch) >= config.painted) | ~self._paintable[chosen]
        colours = colours.masked_fill(plain, -1)
        rows = (colours >= 0).nonzero()[:, 0]
        if len(rows):
            drawings[rows] = paint(drawings[rows], torch.tensor(list(PAINTS.values()))[colours[rows]])
        warp = None
        if config.warp:
            warp = torch.randn(batch, 2, WARP, WARP, generator=self.generator).clamp(-2, 2) * config.warp
        place = replace(place, flip=place.flip.masked_fill(self._handed[chosen], 1.0))
        return render_sprites(drawings, place, size, warp=warp), colours

    def _drawings(self, rows: Tensor, level: Tensor, largest: float) -> Tensor:
        """Drawings [B, 4, S, S] in 0..1, of half the stored side if the `largest` is drawn that small."""
        drawings = self._pack.halves if largest < SIDE * HALF_UP_TO else self._pack.pixels
        return drawings[rows, level].float() / 255

    def _some_drawing(self, chosen: Tensor) -> Tensor:
        """Choose a row of the pack for each of the chosen objects, in any style."""
        options = [self._rows[index] for index in chosen.tolist()]
        pick = self._uniform(len(options)).tolist()
        return torch.tensor([rows[int(p * len(rows))] for rows, p in zip(options, pick, strict=True)])


class _DrawnObject:
    """An object in a picture, and the alpha of its visible part."""

    def __init__(self, index: Tensor, colour: Tensor, alpha: Tensor) -> None:
        self.index, self.colour, self.alpha = index, colour, alpha
        self._area = float(alpha.sum())

    def cover(self, alpha: Tensor) -> None:
        """Hide the part under something with this alpha [H, W] that is drawn over it."""
        self.alpha = self.alpha * (1 - alpha)

    def is_visible(self) -> bool:
        return bool((self.alpha > ALPHA_THRESHOLD).any()) and float(self.alpha.sum()) >= HIDDEN * self._area


def _over(picture: Tensor, layer: Tensor) -> Tensor:
    return picture * (1 - layer[:, 3:]) + layer[:, :3]


def to_image(pixels: Tensor) -> Image.Image:
    """Convert [3, H, W] in 0..1 to an 8-bit picture."""
    return Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
