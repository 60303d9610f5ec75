"""Seeded generator of pictures with known content: drawings on varied backgrounds, with tight boxes.

Everything is drawn with batched tensor operations, so that rendering costs little beside the network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.training.backgrounds import backgrounds
from models.training.placing import Placement, boxes_of, draw, random_pose
from models.training.sprites import SIDE, NamedObject, SpritePack

LUMA = (0.299, 0.587, 0.114)
TRIES = 12  # positions tried for an object, of which the one that covers least of the others is taken


@dataclass(frozen=True)
class SceneConfig:
    """What pictures look like; sides are in parts of the picture's shorter side."""

    smallest: float = 0.4
    largest: float = 1.0
    colour: float = 0.25
    turn: float = 0.35
    busy: float = 1.0
    degrade: float = 1.0
    most_objects: int = 5


@dataclass(frozen=True)
class SingleBatch:
    """Pictures [B, 3, S, S] in 0..1 of one object each, and which object it is [B]."""

    pixels: Tensor
    objects: Tensor


@dataclass(frozen=True)
class SceneBatch:
    """Pictures [B, 3, H, W] in 0..1; for each, boxes x0, y0, x1, y1 in pixels [n, 4] and the objects they show [n]."""

    pixels: Tensor
    boxes_xyxy: list[Tensor]
    objects: list[Tensor]


class SceneGenerator:
    """Draws endless batches; the same seed gives the same pictures."""

    def __init__(self, pack: SpritePack, objects: tuple[NamedObject, ...], *, seed: int) -> None:
        self.objects = objects
        self.generator = torch.Generator().manual_seed(seed)
        self._pixels = pack.pixels
        self._rows = [tuple(row for rows in pack.rows_of(item.slugs) for row in rows) for item in objects]

    def single(self, batch: int, size: tuple[int, int], config: SceneConfig) -> SingleBatch:
        """One object a picture, near enough to the middle that the centre square holds most of it."""
        chosen = torch.randint(len(self.objects), (batch,), generator=self.generator)
        side = self._sides(batch, size, config)
        room = (min(size) - side).clamp(min=0.12 * min(size))[:, None]
        middle = torch.tensor([size[1] / 2, size[0] / 2])
        centre = middle + (torch.rand(batch, 2, generator=self.generator) - 0.5) * room
        place = Placement(centre, side, *random_pose(batch, turn=config.turn, generator=self.generator))
        picture = self._background(batch, size, config)
        picture, _ = self._add(picture, chosen, place, config)
        return SingleBatch(self._degraded(picture, config), chosen)

    def scenes(self, batch: int, size: tuple[int, int], config: SceneConfig) -> SceneBatch:
        """One to `most_objects` objects a picture, little of each covered by another."""
        counts = torch.randint(1, config.most_objects + 1, (batch,), generator=self.generator)
        picture = self._background(batch, size, config)
        boxes: list[list[Tensor]] = [[] for _ in range(batch)]
        objects: list[list[Tensor]] = [[] for _ in range(batch)]
        taken = torch.zeros(batch, 0, 4)
        for turn in range(int(counts.max())):
            rows = (counts > turn).nonzero()[:, 0]
            chosen = torch.randint(len(self.objects), (len(rows),), generator=self.generator)
            place = self._free_place(taken[rows], size, config)
            picture[rows], alpha = self._add(picture[rows], chosen, place, config)
            found, any_pixel = boxes_of(alpha)
            latest = torch.zeros(batch, 1, 4)
            latest[rows, 0] = found * any_pixel[:, None]
            taken = torch.cat([taken, latest], 1)
            for index in any_pixel.nonzero()[:, 0].tolist():
                row = int(rows[index])
                boxes[row].append(found[index])
                objects[row].append(chosen[index])
        return SceneBatch(
            self._degraded(picture, config),
            [torch.stack(found) if found else torch.zeros(0, 4) for found in boxes],
            [torch.stack(found) if found else torch.zeros(0, dtype=torch.long) for found in objects],
        )

    def _sides(self, count: int, size: tuple[int, int], config: SceneConfig) -> Tensor:
        spread = torch.rand(count, generator=self.generator)
        return config.smallest * (config.largest / config.smallest) ** spread * min(size)

    def _free_place(self, taken: Tensor, size: tuple[int, int], config: SceneConfig) -> Placement:
        """A place for one more object in each picture whose boxes so far are `taken` [B, n, 4]."""
        batch = len(taken)
        side = self._sides(batch, size, config)
        extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
        room = (extent - 0.9 * side[:, None]).clamp(min=1)[:, None]  # [B, 1, 2]
        tries = extent / 2 + (torch.rand(batch, TRIES, 2, generator=self.generator) - 0.5) * room  # [B, TRIES, 2]
        half = side[:, None, None] / 2
        corner = torch.minimum((tries + half)[:, :, None], taken[:, None, :, 2:]) - torch.maximum(
            (tries - half)[:, :, None], taken[:, None, :, :2]
        )  # [B, TRIES, n, 2]
        covered = corner.clamp(min=0).prod(-1).sum(-1)  # [B, TRIES]
        centre = tries[torch.arange(batch), covered.argmin(1)]
        return Placement(centre, side, *random_pose(batch, turn=config.turn, generator=self.generator))

    def _background(self, batch: int, size: tuple[int, int], config: SceneConfig) -> Tensor:
        rows = torch.randint(len(self._pixels), (16,), generator=self.generator)
        clutter = self._pixels[rows, -1].float() / 255
        return backgrounds(batch, size, drawings=clutter, busy=config.busy, generator=self.generator)

    def _add(self, picture: Tensor, chosen: Tensor, place: Placement, config: SceneConfig) -> tuple[Tensor, Tensor]:
        """`picture` with the chosen objects drawn on it, and their alpha [B, H, W]."""
        options = [self._rows[index] for index in chosen.tolist()]
        pick = torch.rand(len(options), generator=self.generator).tolist()
        rows = torch.tensor([rows[int(p * len(rows))] for rows, p in zip(options, pick, strict=True)])
        level = (SIDE / place.side).log2().floor().long().clamp(0, self._pixels.shape[1] - 1)
        drawings = self._recoloured(self._pixels[rows, level].float() / 255, config.colour)
        layer = draw(drawings, place, (picture.shape[2], picture.shape[3]))
        alpha = layer[:, 3:]
        return picture * (1 - alpha) + layer[:, :3], alpha[:, 0]

    def _recoloured(self, drawings: Tensor, strength: float) -> Tensor:
        """Brightness, contrast, saturation and a tint, different for every drawing [B, 4, S, S]."""
        batch = len(drawings)
        change = torch.randn(4, batch, 1, 1, 1, generator=self.generator).clamp(-2, 2) * strength
        tint = torch.randn(batch, 3, 1, 1, generator=self.generator).clamp(-2, 2) * strength * 0.25
        colour, alpha = drawings[:, :3], drawings[:, 3:]
        grey = (colour * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        colour = grey + (colour - grey) * (change[0]).exp()
        colour = (colour - 0.5 * alpha) * (change[1] * 0.6).exp() + alpha * (0.5 + 0.3 * change[2] + tint)
        return torch.cat([torch.minimum(colour.clamp(min=0), alpha), alpha], 1)

    def _degraded(self, picture: Tensor, config: SceneConfig) -> Tensor:
        """Blur on some pictures, fine noise and a change of light on others."""
        batch = len(picture)
        chance = torch.rand(3, batch, 1, 1, 1, generator=self.generator)
        amount = torch.rand(2, batch, 1, 1, 1, generator=self.generator) * config.degrade
        if config.degrade > 0:
            blurred = functional.avg_pool2d(picture, 3, stride=1, padding=1, count_include_pad=False)
            picture = torch.where(chance[0] < 0.25, picture + (blurred - picture) * amount[0].clamp(max=1), picture)
            noise = torch.randn(batch, 1, *picture.shape[2:], generator=self.generator)
            picture = picture + noise * 0.06 * amount[1] * (chance[1] < 0.4)
            picture = picture * (1 + (chance[2] - 0.5) * 0.4 * config.degrade)
        return picture.clamp(0, 1)
