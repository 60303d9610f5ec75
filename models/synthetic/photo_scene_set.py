"""Scenes of cut-outs on photographs as a set of records, `format = "photo_scenes"`: a number always gives its scene."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from models.data.datasets import OpenContext, SetConfig
from models.data.images import DrawnPicture
from models.data.records import ClassificationRecord, DetectionRecord, GroundingRecord, Record, Region
from models.synthetic.label_phrases import NameEmbeddings
from models.synthetic.photo_pack import PhotoPack, load_photographs
from models.synthetic.photo_scenes import PhotoSceneConfig, PhotoSceneGenerator
from models.synthetic.scene_prompts import SceneContents, SceneLabel, ScenePromptSampler
from models.synthetic.scene_set import HELD_OUT_SEED, SCENE_SIZES, SINGLE_SIZES
from models.synthetic.sprites import NAMES_FILE, SMALL_PACK, NamedObject, SpritePack, load_pack, read_names
from server.contract.image import resized_size

BLOCK = 16  # pictures in a row that have one size, so that a batch need not be padded
# Things that photographs to paste on may show, so that they cannot be called absent.
SCENERY = frozenset((
    "building", "house", "castle", "church", "mosque", "temple", "shrine", "stadium", "monument", "statue",
    "tower", "bridge", "city", "cityscape", "island", "mountain", "volcano", "desert", "beach", "park",
    "fountain", "sun", "moon", "star", "sky", "cloud", "rainbow", "night", "sunset", "sunrise", "tree",
    "forest", "fence", "window", "door", "stone", "rock", "wood", "brick", "factory", "station", "hospital",
    "hotel", "school", "office", "bank", "store", "hut", "camping", "leaf", "grass", "herb", "field", "river",
    "sea", "ocean", "water", "wave", "road", "street", "railway", "person",
))  # fmt: skip


class PhotoScenesConfig(SetConfig):
    """Scenes of the photo pack `photographs`, with drawings of the sprite pack `sprites` under the list `names`.

    `single`: pictures of one object, for a CLIP. Validation shows cut-outs, names and photographs of its own. `small`:
    share of the blocks of pictures three quarters as large.
    """

    format: Literal["photo_scenes"]
    photographs: Path
    sprites: Path = SMALL_PACK
    names: Path = NAMES_FILE
    single: bool = False
    small: float = Field(default=0.0, ge=0, le=1)
    scene: PhotoSceneConfig = PhotoSceneConfig()

    def objects(self, folder: Path, *, held_out: bool = False) -> tuple[NamedObject, ...]:
        """The objects that are shown: those of photographs, then those that are only drawn."""
        pack, sprites = _packs(folder / self.photographs, folder / self.sprites)
        drawn = {item.label: item for item in read_names(folder / self.names, pack=sprites)}
        labels = pack.labels(held_out=held_out and not self.single)
        photographed = [replace(drawn[one], keywords=()) if one in drawn else NamedObject(one, ()) for one in labels]
        if held_out and not self.single:  # a CLIP tells apart the names it is trained on
            return tuple(photographed)
        return (*photographed, *(item for label, item in drawn.items() if label not in set(labels)))

    def open(self, context: OpenContext) -> "PhotoSceneSet":
        packs = _packs(context.folder / self.photographs, context.folder / self.sprites)
        return PhotoSceneSet(self, *packs, self.objects(context.folder, held_out=context.held_out), context)


@cache
def _packs(photographs: Path, sprites: Path) -> tuple[PhotoPack, SpritePack]:
    return load_photographs(photographs), load_pack(sprites)


class PhotoSceneSet:
    """Scenes by number. Records are as those of `scene_set.SceneSet`."""

    def __init__(
        self,
        config: PhotoScenesConfig,
        photographs: PhotoPack,
        sprites: SpritePack,
        objects: tuple[NamedObject, ...],
        context: OpenContext,
    ) -> None:
        self.name = f"scenes of {config.photographs}"
        self._config, self._rules, self._held_out = config, context.preprocessing, context.held_out
        self._names = tuple(item.label for item in objects)
        known = None if context.embeddings is None else NameEmbeddings(context.embeddings, objects).labels
        self._prompts = ScenePromptSampler(objects, context.prompts, embeddings=known)
        self._generator = PhotoSceneGenerator(
            photographs, sprites, objects, held_out=context.held_out and not config.single
        )
        self._scenery = {index for index, item in enumerate(objects) if set(item.label.lower().split()) & SCENERY}

    def generate(self, number: int, *, seed: int, total: float) -> Record:
        seed += HELD_OUT_SEED * self._held_out
        rng = random.Random(f"{seed} {number}")
        size = self._size(number // BLOCK, random.Random(f"{seed} block {number // BLOCK}"))
        where = f"{self.name}, number {number}"
        if self._config.single:
            image, index = self._generator.single(size, self._config.scene, rng)
            return ClassificationRecord(DrawnPicture(image, where), index, self._names, where, not self._held_out)
        scene = self._generator.scene(size, self._config.scene, rng)
        return self._record(DrawnPicture(scene.image, where), scene.contents, rng)

    def _size(self, block: int, rng: random.Random) -> tuple[int, int]:
        """The (height, width) of a block's pictures."""
        sizes = SINGLE_SIZES if self._config.single else SCENE_SIZES
        if self._held_out:
            return sizes[block % len(sizes)]
        square = self._config.single or self._rules.resize == "shorter_crop"
        height, width = (self._rules.shorter,) * 2 if square else resized_size(*rng.choice(sizes), self._rules)
        if rng.random() < self._config.small:
            height, width = height * 3 // 4, width * 3 // 4
        return height, width

    def _record(self, picture: DrawnPicture, scene: SceneContents, rng: random.Random) -> Record:
        boxes = np.asarray(scene.boxes, np.float32).reshape(-1, 4)
        if self._held_out:
            absent = tuple(index for index in self._prompts.absent(scene.objects) if index not in self._scenery)
            labels = np.asarray(scene.objects, np.int64)
            return DetectionRecord(picture, boxes, labels, self._names, picture.where, absent=absent)
        caption, regions = "", []
        sampled = self._prompts.sample(scene, rng)
        asked = [label for label in sampled if label.rows or label.index not in self._scenery]
        if not asked:
            others = [index for index in self._prompts.absent(scene.objects) if index not in self._scenery]
            asked = [SceneLabel(self._names[index], index, ()) for index in rng.sample(others, 1)]
        for label in asked:
            regions.append(Region(((len(caption), len(caption) + len(label.text)),), boxes[list(label.rows)]))
            caption += f"{label.text}. "
        return GroundingRecord(picture, caption, tuple(regions), picture.where, finished=True)
