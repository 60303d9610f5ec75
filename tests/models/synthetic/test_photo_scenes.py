"""Scenes of cut-outs: what is pasted is there, in its box, and the same random state gives the same picture."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageColor

from models.synthetic.photo_pack import PERSON, load_photographs
from models.synthetic.photo_scenes import PhotoSceneConfig, PhotoSceneGenerator
from models.synthetic.rebuild_people import add_people
from models.synthetic.sprites import SMALL_PACK, NamedObject, load_pack, read_names
from tests.models.synthetic.photographs import LABELS, flat_cutout, write_photographs

SIZE = (96, 128)
CLEAR = PhotoSceneConfig(drawn=0, painted=0, overlap=0, hidden=0, degrade=0, main=0, most_objects=3, largest=0.5)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> PhotoSceneGenerator:
    pack = load_photographs(write_photographs(tmp_path_factory.mktemp("pack") / "photographs.zip"))
    sprites = load_pack(SMALL_PACK)
    objects = [NamedObject(label, ()) for label in LABELS] + list(read_names(pack=sprites))[5:9]
    return PhotoSceneGenerator(pack, sprites, objects, held_out=False)


def hue(pixels: np.ndarray) -> np.ndarray:
    """Colours less their grey, of unit length."""
    values = pixels.astype(np.float32) - pixels.mean(-1, keepdims=True)
    return values / (np.linalg.norm(values, axis=-1, keepdims=True) + 1e-3)


def test_a_box_is_tight_around_what_was_pasted(generator):
    checked = 0
    for number in range(40):
        scene = generator.scene(SIZE, CLEAR, random.Random(number))
        pixels = hue(np.asarray(scene.image))
        for index, box in zip(scene.contents.objects, scene.contents.boxes, strict=True):
            if scene.contents.objects.count(index) > 1:
                continue
            wanted = hue(np.array([ImageColor.getrgb(LABELS[generator.objects[index].label])]))[0]
            rows, columns = np.nonzero(pixels @ wanted > 0.8)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.subtract(found, box)).max() <= 3, (number, box, found)
            checked += 1
    assert checked > 40


def test_the_same_state_gives_the_same_scene(generator):
    config = PhotoSceneConfig(degrade=1.0, painted=0.5)
    one = [generator.scene(SIZE, config, random.Random(number)) for number in range(6)]
    two = [generator.scene(SIZE, config, random.Random(number)) for number in reversed(range(6))][::-1]
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
        assert a.contents == b.contents


def test_an_object_that_is_hardly_seen_is_not_counted(generator):
    crowded = PhotoSceneConfig(drawn=0, overlap=1, hidden=1, main=0, smallest=0.9, largest=0.95, most_objects=6)
    scenes = [generator.scene(SIZE, crowded, random.Random(number)).contents for number in range(20)]
    assert any(scene.objects for scene in scenes)
    assert max(len(scene.objects) for scene in scenes) < 6
    for scene in scenes:
        assert all(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in scene.boxes)


@pytest.mark.parametrize("drawn", [0.0, 1.0])
def test_the_share_of_drawings_is_as_asked(generator, drawn):
    config = PhotoSceneConfig(drawn=drawn)
    shown = {generator.objects[generator.single((64, 64), config, random.Random(k))[1]].label for k in range(30)}
    assert shown.isdisjoint(LABELS) == (drawn == 1.0)


def test_a_picture_of_one_object_shows_it(generator):
    config = PhotoSceneConfig(drawn=0, painted=0, degrade=0, smallest=0.6, largest=0.9)
    for number in range(10):
        image, index = generator.single((80, 80), config, random.Random(number))
        wanted = hue(np.array([ImageColor.getrgb(LABELS[generator.objects[index].label])]))[0]
        assert (hue(np.asarray(image)) @ wanted > 0.8).mean() > 0.1
        assert image.size == (80, 80)


def test_held_out_cutouts_and_photographs_are_shown_in_validation_alone(tmp_path: Path):
    pack = load_photographs(write_photographs(tmp_path / "photographs.zip"))
    sprites, objects = load_pack(SMALL_PACK), [NamedObject("yak", ()), NamedObject("dog", ())]
    config = PhotoSceneConfig(drawn=0)
    for held_out, label in ((True, "yak"), (False, "dog")):
        made = PhotoSceneGenerator(pack, sprites, objects, held_out=held_out)
        shown = {objects[made.single((64, 64), config, random.Random(number))[1]].label for number in range(8)}
        assert shown == {label}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_people_is_as_asked(tmp_path: Path, share: float):
    add_people(write_photographs(tmp_path / "a.zip"), tmp_path / "b.zip", lambda rng: flat_cutout("pink"), 2)
    objects = [NamedObject(label, ()) for label in (*LABELS, PERSON)]
    pack = load_photographs(tmp_path / "b.zip")
    generator = PhotoSceneGenerator(pack, load_pack(SMALL_PACK), objects, held_out=False)
    config = PhotoSceneConfig(drawn=0, people=share)
    shown = [objects[generator.single((64, 64), config, random.Random(k))[1]].label for k in range(40)]
    assert PERSON in shown
    assert (set(shown) == {PERSON}) == (share == 1.0)
