"""Teach detectors with a frozen backbone to name drawings and people: layers from its maps to its words.

    python -m models.training.drawn_words OUT --detectors CHECKPOINT... --words WORDS --photographs PACK --sprites PACK

Learnt by contrast with the names of all (InfoNCE), from cells of the objects in generated scenes; cut-outs of
photographs and empty places are to stay as they are. People, whom published classes lack, are learnt as drawings are if
the pack of photographs has rendered ones (`models.synthetic.rebuild_people`). Nothing else changes. The features of the
cells are computed once, and kept in OUT, where an interrupted run goes on; each detector's checkpoint is written to a
folder of its name there.
"""

import argparse
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import registry
from models.glip.model import Glip
from models.grounding_dino.model import GroundingDino
from models.layers.backbone import EfficientNetStages, drawn_cells
from models.layers.configs import EfficientNetConfig
from models.layers.efficientnet import DrawnWords
from models.layers.word_scores import SPREAD, UNSURE
from models.synthetic.photo_pack import PERSON
from models.synthetic.photo_scenes import PhotoSceneConfig, PhotoSceneGenerator
from models.synthetic.scenes import SceneConfig, SceneGenerator
from models.training.class_residual import FitConfig, add_pack_arguments, open_packs, open_people, optimiser_of
from models.training.distillation import DistilledWords

Detector = Glip | GroundingDino
LOG = logging.getLogger(__name__)
CELLS, PEOPLE_CELLS = "cells.pt", "people.pt"
BLOCK = 8  # scenes drawn and encoded together
SAVED_EVERY = 50  # blocks
SIZES = ((288, 384), (288, 288), (384, 288), (288, 448), (224, 288))  # (height, width)
PHOTO_SHARE, PASTED_SHARE = 0.25, 0.15  # of the blocks: photographs; drawings pasted on photographs
PHOTOS = PhotoSceneConfig(smallest=0.12, largest=0.8, most_objects=4, drawn=0.0, painted=0.1, main=0.6, hidden=0.1)
PASTED = replace(PHOTOS, drawn=1.0, main=0.4)
PEOPLE = replace(PHOTOS, largest=0.95, most_objects=5, main=0.35, overlap=0.4)
DRAWN = SceneConfig(
    smallest=0.1, largest=0.65, painted=0.12, restyle=1.0, warp=0.08, overlap=0.25, shapes=3, repeated=0.15
)
EMPTY = -1  # label of a place without an object
TRIES = 6  # places tried for an empty one


@dataclass(frozen=True)
class Cells:
    """Features [N, 9, C] float16 of cells in boxes; rows of their labels [N], or `EMPTY`; which are photographs [N]."""

    features: Tensor
    labels: Tensor
    is_photo: Tensor


@dataclass(frozen=True)
class CellFitConfig(FitConfig):
    """Length and strengths of the fit; `empty` weighs the square of what is added to empty places; `seen` of a box's
    nine cells are taken at a time.
    """

    steps: int = 4000
    learning_rate: float = 1.5e-3
    dropout: float = 0.1
    scale: float = 20.0
    seen: int = 5
    empty: float = 1.0


@dataclass(frozen=True)
class Scene:
    """Pixels [3, H, W] in 0..1; boxes x0, y0, x1, y1 in pixels [n, 4] and the objects' labels; is it of photographs."""

    pixels: Tensor
    boxes_xyxy: Tensor
    labels: list[str]
    is_photo: bool


class SceneSource:
    """Draws blocks of scenes of one size; the same number always gives the same block."""

    def __init__(self, photos: PhotoSceneGenerator, pasted: PhotoSceneGenerator, drawn: SceneGenerator) -> None:
        self._photos, self._pasted, self._drawn = photos, pasted, drawn

    def block(self, number: int) -> list[Scene]:
        rng = random.Random(f"drawn words {number}")
        size, kind = rng.choice(SIZES), rng.random()
        if kind < PHOTO_SHARE + PASTED_SHARE:
            is_photo = kind < PHOTO_SHARE
            generator, config = (self._photos, PHOTOS) if is_photo else (self._pasted, PASTED)
            return [_of_photographs(generator, size, config, rng, is_photo=is_photo) for _ in range(BLOCK)]
        self._drawn.generator.manual_seed(rng.getrandbits(62))
        batch, objects = self._drawn.scenes(BLOCK, size, DRAWN), self._drawn.objects
        return [
            Scene(pixels, boxes, [objects[index].label for index in found.tolist()], False)
            for pixels, boxes, found in zip(batch.pixels, batch.boxes_xyxy, batch.objects, strict=True)
        ]


def people_block(people: PhotoSceneGenerator, number: int) -> list[Scene]:
    """Draw a block of scenes of people; the same number always gives the same block."""
    rng = random.Random(f"people {number}")
    size = rng.choice(SIZES)
    return [_of_photographs(people, size, PEOPLE, rng, is_photo=False) for _ in range(BLOCK)]


def _of_photographs(
    generator: PhotoSceneGenerator,
    size: tuple[int, int],
    config: PhotoSceneConfig,
    rng: random.Random,
    *,
    is_photo: bool,
) -> Scene:
    scene = generator.scene(size, config, rng)
    pixels = torch.from_numpy(np.asarray(scene.image, np.float32) / 255).permute(2, 0, 1)
    boxes = torch.tensor(scene.contents.boxes, dtype=torch.float32).reshape(-1, 4)
    return Scene(pixels, boxes, [generator.objects[index].label for index in scene.contents.objects], is_photo)


def empty_box(boxes_xyxy: Tensor, size: tuple[int, int], rng: random.Random) -> Tensor | None:
    """Find a square [1, 4] that touches none of the boxes [n, 4]; None if some tries found none."""
    height, width = size
    for _ in range(TRIES):
        side = rng.uniform(0.1, 0.5) * min(size)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        box = torch.tensor([[x, y, x + side, y + side]])
        shared = torch.minimum(box[:, 2:], boxes_xyxy[:, 2:]) - torch.maximum(box[:, :2], boxes_xyxy[:, :2])
        if not (shared > 0).all(1).any():
            return box
    return None


@torch.no_grad()
def cells_in_boxes(features: Tensor, boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Features [C, h, w] of a picture of `size` (height, width) -> those of nine cells in each box [n, 9, C]."""
    scale = torch.tensor([size[1], size[0]])
    centre, side = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 / scale, (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / scale
    places = torch.tensor([(x, y) for x in SPREAD for y in SPREAD])
    points = centre[:, None] + side[:, None] * places  # [n, 9, 2], as `in_boxes` samples
    height, width = features.shape[1:]
    columns = (points[..., 0] * width).long().clamp(0, width - 1)
    rows = (points[..., 1] * height).long().clamp(0, height - 1)
    return features[:, rows, columns].permute(1, 2, 0)


@torch.no_grad()
def cells_of(backbone: EfficientNetStages, scenes: Sequence[Scene], place: dict[str, int], rng: random.Random) -> Cells:
    """Features of the objects of scenes of one size, and of an empty place in each that has one."""
    pixels = torch.stack([scene.pixels for scene in scenes])
    size = (pixels.shape[2], pixels.shape[3])
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone.efficientnet((pixels * 255 - 127).div(128).contiguous(memory_format=torch.channels_last))
        features = drawn_cells(*maps[1:])
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for scene, own in zip(scenes, features, strict=True):
        boxes, labels = scene.boxes_xyxy, [place[label] for label in scene.labels]
        empty = empty_box(boxes, size, rng)
        if empty is not None:
            boxes, labels = torch.cat([boxes, empty]), [*labels, EMPTY]
        is_photo = torch.full((len(labels),), scene.is_photo)
        found.append((cells_in_boxes(own, boxes, size).half(), torch.tensor(labels, dtype=torch.long), is_photo))
    return Cells(*(torch.cat(column) for column in zip(*found, strict=True)))


def collect(cells: Callable[[int], Cells], count: int, file: Path) -> Cells:
    """The cells of `count` blocks, kept in `file` as they come."""
    parts: list[Cells] = []
    first = 0
    if file.is_file():
        stored = torch.load(file, weights_only=True)
        first = int(stored.pop("blocks"))
        parts = [Cells(**stored)]
    for number in range(first, count):
        parts.append(cells(number))
        if (number + 1) % SAVED_EVERY == 0 or number + 1 == count:
            parts = [_joined(parts)]
            part = file.with_suffix(".part")
            torch.save({**vars(parts[0]), "blocks": number + 1}, part)
            part.replace(file)
            LOG.info("%d of %d scenes, %d places", (number + 1) * BLOCK, count * BLOCK, len(parts[0].labels))
    return _joined(parts)


def _joined(parts: Sequence[Cells]) -> Cells:
    return Cells(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Cells)))


def fit(layers: DrawnWords, cells: Cells, known: Tensor, names: Tensor, config: CellFitConfig, *, seed: int) -> None:
    """Fit the layers in place.

    known [N, 9, D]: embeddings of the cells without them; names [K, D]: embeddings of the labels, of unit length.
    """
    torch.manual_seed(seed)
    sample = cells.features[:: max(1, len(cells.features) // 20000)].float().flatten(0, 1)
    mean, deviation = sample.mean(0), sample.std(0) + 1e-3
    log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
    optimiser, schedule = optimiser_of(layers.parameters(), log_scale, config)
    for step in range(config.steps):
        rows, seen = torch.randint(len(cells.labels), (config.batch,)), torch.randperm(known.shape[1])[: config.seen]
        labels, photo = cells.labels[rows], cells.is_photo[rows]
        added = layers((cells.features[rows][:, seen].float() - mean) / deviation, config.dropout)
        words = known[rows][:, seen] + added
        directions = words / (words.square().sum(2, keepdim=True) + UNSURE**2).sqrt()  # as `WordScores`
        logits = log_scale.exp().clamp(max=config.largest_scale) * directions.mean(1) @ names.T
        empty = labels == EMPTY
        taught, length = ~empty & ~photo, added.square().sum(2).mean(1)
        loss = functional.cross_entropy(logits[taught], labels[taught], label_smoothing=config.smoothing)
        quiet, blank = _mean(length, photo & ~empty), _mean(length, empty)
        loss = loss + config.quiet * quiet + config.empty * blank + config.smooth * length.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 500 == 0:
            right = (logits[taught].argmax(1) == labels[taught]).float().mean()
            LOG.info("step %d  loss %.3f  named %.3f  photographs %.4f", step + 1, loss.item(), right, quiet.item())
    with torch.no_grad():  # the first layer reads features as they are
        layers.first.weight.div_(deviation)
        layers.first.bias.sub_(layers.first.weight @ mean)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values[chosen].sum() / max(1, int(chosen.sum()))


@torch.no_grad()
def known_words(backbone: EfficientNetStages, features: Tensor) -> Tensor:
    """Features [N, 9, C] of cells -> their embeddings [N, 9, D] by the classes."""
    assert backbone.words is not None
    convolution = backbone.words.head[0]
    assert isinstance(convolution, nn.Conv2d)
    parts = []
    for part in features.split(1024):
        coarse = part[..., -convolution.in_channels :].float().permute(0, 2, 1)[..., None]  # [n, C, 9, 1]
        parts.append(backbone.words.of_cells(coarse)[..., 0].permute(0, 2, 1))
    return torch.cat(parts)


def with_drawn(model: Detector, layers: DrawnWords) -> Detector:
    """The same detector with these layers."""
    backbone = model.config.backbone
    assert isinstance(backbone, EfficientNetConfig)
    backbone = replace(backbone, drawn=layers.first.out_features)
    fresh: Detector
    if isinstance(model, Glip):
        fresh = Glip(replace(model.config, backbone=backbone))
    else:
        fresh = GroundingDino(replace(model.config, backbone=backbone))
    drawn = {f"backbone.drawn.{name}": value for name, value in layers.state_dict().items()}
    fresh.load_state_dict({**model.state_dict(), **drawn})
    return fresh.eval()


def _detector(checkpoint: registry.LoadedCheckpoint) -> Detector:
    """The model of a checkpoint, with a backbone whose classes are words."""
    model = checkpoint.model
    backbone = model.backbone if isinstance(model, Glip | GroundingDino) else None
    if not isinstance(backbone, EfficientNetStages) or backbone.words is None:
        raise ValueError(f"{checkpoint.variant}: a detector on an EfficientNet with words is expected")
    assert isinstance(model, Glip | GroundingDino)
    return model


def _shared_backbone(detectors: dict[str, Detector]) -> EfficientNetStages:
    """The backbone that all detectors, by name, have."""
    (first, model), *others = detectors.items()
    backbone = model.backbone
    assert isinstance(backbone, EfficientNetStages)
    for name, other in others:
        theirs = other.backbone.state_dict()
        for key, value in backbone.state_dict().items():
            if not key.startswith("drawn.") and not torch.equal(value, theirs[key]):
                raise ValueError(f"{name} has another backbone than {first}: {key}")
    return backbone.eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Teach detectors with a frozen backbone to name drawings.")
    parser.add_argument("out", type=Path, help="folder of the cells and the checkpoints")
    parser.add_argument("--detectors", type=Path, nargs="+", required=True, help="checkpoints with the same backbone")
    parser.add_argument("--words", type=Path, required=True, help="folder of the distillation they were trained with")
    add_pack_arguments(parser)
    parser.add_argument("--scenes", type=int, default=16000, help="scenes to learn from")
    parser.add_argument("--people", type=int, default=1600, help="scenes of people, if the pack has them")
    parser.add_argument("--steps", type=int, default=CellFitConfig.steps, help="steps of the fit")
    parser.add_argument("--hidden", type=int, default=512, help="width of the layers")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoints, words = [registry.load(path) for path in args.detectors], DistilledWords(args.words)
    detectors = {checkpoint.variant: _detector(checkpoint) for checkpoint in checkpoints}
    backbone = _shared_backbone(detectors)
    names, generators = open_packs(args, words)
    source, people = SceneSource(*generators), open_people(args)
    if people is not None:
        names.append(PERSON)
    place = {name: row for row, name in enumerate(names)}
    cells = collect(
        lambda number: cells_of(backbone, source.block(number), place, random.Random(f"empty {number}")),
        -(-args.scenes // BLOCK),
        args.out / CELLS,
    )
    if people is not None:
        own = collect(
            lambda number: cells_of(backbone, people_block(people, number), place, random.Random(f"empty {number}")),
            -(-args.people // BLOCK),
            args.out / PEOPLE_CELLS,
        )
        cells = _joined([cells, own])
    layers = DrawnWords(replace(backbone.config, drawn=args.hidden))
    embeddings = torch.stack([words.embeddings[name] for name in names])
    fit(layers, cells, known_words(backbone, cells.features), embeddings, CellFitConfig(steps=args.steps), seed=0)
    for checkpoint in checkpoints:
        model = with_drawn(detectors[checkpoint.variant], layers)
        registry.save(
            args.out / checkpoint.variant,
            model,
            model.config,
            tokenizer_file=checkpoint.tokenizer_file,
            name=checkpoint.variant,
            source=checkpoint.source,
            licence=checkpoint.licence,
            serving=dict(checkpoint.serving),
        )
        LOG.info("wrote %s", args.out / checkpoint.variant)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
