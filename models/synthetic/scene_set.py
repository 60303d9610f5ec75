"""Generated scenes as a set of records, `format = "scenes"`: the same number always gives the same scene."""

import random
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from models.data.datasets import OpenContext, SetConfig
from models.data.images import DrawnPicture
from models.data.records import ClassificationRecord, DetectionRecord, GroundingRecord, Record, Region
from models.synthetic.label_phrases import NameEmbeddings
from models.synthetic.scene_prompts import SceneContents, ScenePromptSampler, contents
from models.synthetic.scenes import EASY, SceneConfig, SceneGenerator, to_image
from models.synthetic.sprites import NAMES_FILE, SMALL_PACK, STYLES, NamedObject, SpritePack, load_pack, read_names
from server.contract.image import resized_size
from server.contract.manifest import Preprocessing

# (height, width) of pictures before preprocessing.
SCENE_SIZES = ((480, 640), (480, 480), (640, 480), (400, 600), (360, 640), (600, 400))
SINGLE_SIZES = ((240, 320), (300, 300), (320, 240))
SMALL_SHARE = 2 / 3  # share of blocks of smaller pictures, as long as there are any
ZOOMED = 0.1  # share of blocks drawn at twice the size and averaged down, which looks like a resized photograph
HELD_OUT_SEED = 1_000_003


class ScenesConfig(SetConfig):
    """Generated scenes of a sprite pack's drawings.

    Objects are those of the list `names` that the pack `sprites` (a zip or a folder) has in one of the `styles`.
    Pictures change evenly from `easy` to `full` difficulty until the share `until` of the run. `single`: pictures of
    one object, for a CLIP, which learns to tell it from all others. `block`: pictures drawn together, all of one size;
    until the share `small` of the run, two of three blocks are of pictures three quarters as large.
    """

    format: Literal["scenes"]
    sprites: Path = SMALL_PACK
    styles: tuple[str, ...] = STYLES
    names: Path = NAMES_FILE
    single: bool = False
    full: SceneConfig = SceneConfig()
    easy: SceneConfig = EASY
    until: float = Field(default=0.5, ge=0, le=1)
    small: float = Field(default=0.0, ge=0, le=1)
    block: PositiveInt = 16

    def objects(self, folder: Path) -> tuple[NamedObject, ...]:
        """The objects that are drawn."""
        return _drawable(folder / self.sprites, self.styles, folder / self.names)[1]

    def open(self, context: OpenContext) -> "SceneSet":
        return SceneSet(
            self, *_drawable(context.folder / self.sprites, self.styles, context.folder / self.names), context
        )


@cache
def _drawable(sprites: Path, styles: tuple[str, ...], names: Path) -> tuple[SpritePack, tuple[NamedObject, ...]]:
    pack = load_pack(sprites, styles=styles)
    return pack, read_names(names, pack=pack)


class SceneSet:
    """Scenes by number, drawn a block at a time.

    In training, a scene's record has the labels of its prompt as a caption ("the small dog on the left. a cat."), each
    a region with the boxes it describes, or none. Held-out scenes are drawn at full size and difficulty; their records
    list all categories that are present or absent.
    """

    def __init__(
        self, config: ScenesConfig, pack: SpritePack, objects: tuple[NamedObject, ...], context: OpenContext
    ) -> None:
        self.name = f"scenes of {config.sprites}"
        self._config, self._preprocessing, self._held_out = config, context.preprocessing, context.held_out
        self._objects, self._names = objects, tuple(item.label for item in objects)
        known = None if context.embeddings is None else NameEmbeddings(context.embeddings, objects).labels
        self._prompts = ScenePromptSampler(objects, context.prompts, embeddings=known)
        self._generator = SceneGenerator(pack, objects, seed=0)
        self._block: tuple[Any, list[Record]] = (None, [])

    def generate(self, number: int, *, seed: int, total: float) -> Record:
        block, row = divmod(number, self._config.block)
        if self._block[0] != (block, seed, total):
            self._block = ((block, seed, total), self._draw(block, seed, total))
        return self._block[1][row]

    def _draw(self, block: int, seed: int, total: float) -> list[Record]:
        config = self._config
        rng = random.Random(f"{seed + HELD_OUT_SEED * self._held_out} {block}")
        self._generator.generator.manual_seed(rng.getrandbits(62))
        progress = min(1.0, block * config.block / total) if total else 1.0
        part = min(1.0, progress / config.until) if config.until else 1.0
        difficulty = config.full if self._held_out else config.easy.toward(config.full, part)
        size, zoom = self._size(block, rng, small=progress < config.small)
        drawn = (size[0] * zoom, size[1] * zoom)
        where = [f"{self.name}, number {block * config.block + row}" for row in range(config.block)]
        if config.single:
            batch = self._generator.single(config.block, drawn, difficulty)
            return [
                ClassificationRecord(DrawnPicture(image, place), label, self._names, place, not self._held_out)
                for image, label, place in zip(_images(batch.pixels, zoom), batch.objects.tolist(), where, strict=True)
            ]
        scenes = self._generator.scenes(config.block, drawn, difficulty)
        return [
            self._record(DrawnPicture(image, place), scene, zoom, rng)
            for image, scene, place in zip(_images(scenes.pixels, zoom), contents(scenes), where, strict=True)
        ]

    def _size(self, block: int, rng: random.Random, *, small: bool) -> tuple[tuple[int, int], int]:
        """The (height, width) of a block's pictures, and the factor they are drawn larger by."""
        sizes = SINGLE_SIZES if self._config.single else SCENE_SIZES
        if self._held_out:
            return sizes[block % len(sizes)], 1
        rules: Preprocessing = self._preprocessing
        square = self._config.single or rules.resize == "shorter_crop"
        height, width = (rules.shorter, rules.shorter) if square else resized_size(*rng.choice(sizes), rules)
        if small and rng.random() < SMALL_SHARE:
            height, width = height * 3 // 4, width * 3 // 4
        return (height, width), 2 if rng.random() < ZOOMED else 1

    def _record(self, picture: DrawnPicture, scene: SceneContents, zoom: int, rng: random.Random) -> Record:
        boxes = np.asarray(scene.boxes, np.float32).reshape(-1, 4) / np.float32(zoom)
        if self._held_out:
            absent, labels = self._prompts.absent(scene.objects), np.asarray(scene.objects, np.int64)
            return DetectionRecord(picture, boxes, labels, self._names, picture.where, absent=absent)
        caption, regions = "", []
        for label in self._prompts.sample(scene, rng):
            regions.append(Region(((len(caption), len(caption) + len(label.text)),), boxes[list(label.rows)]))
            caption += f"{label.text}. "
        return GroundingRecord(picture, caption, tuple(regions), picture.where, finished=True)


def _images(pixels: Tensor, zoom: int) -> list[Any]:
    return [to_image(picture) for picture in functional.avg_pool2d(pixels, zoom)]
