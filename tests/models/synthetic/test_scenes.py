from dataclasses import replace

import pytest
import torch

from models.synthetic import scenes
from models.synthetic.compositing import Placement
from models.synthetic.scenes import COLOUR_WORDS, EASY, SceneConfig, SceneGenerator, _DrawnObject, to_image
from models.synthetic.sprites import SMALL_PACK, NamedObject, SpritePack, load_pack, read_names

PLAIN = SceneConfig(
    smallest=0.3, largest=0.5, colour=0.0, turn=0.0, busy=0.0, degrade=0.0, most_objects=3,
    restyle=0.0, warp=0.0, painted=0.0, overlap=0.0, shapes=0, repeated=0.0,
)  # fmt: skip
HARD = replace(scenes.HARD, smallest=0.2, largest=0.6)


@pytest.fixture(scope="module")
def pack() -> SpritePack:
    return load_pack(SMALL_PACK)


@pytest.fixture(scope="module")
def objects(pack: SpritePack) -> tuple[NamedObject, ...]:
    return read_names(pack=pack)


def test_the_same_seed_draws_the_same_pictures(pack: SpritePack, objects: tuple[NamedObject, ...]):
    first, second = (SceneGenerator(pack, objects, seed=3).scenes(3, (48, 64), HARD) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert all(torch.equal(a, b) for a, b in zip(first.boxes_xyxy, second.boxes_xyxy, strict=True))


def test_another_seed_draws_other_pictures(pack: SpritePack, objects: tuple[NamedObject, ...]):
    first, second = (SceneGenerator(pack, objects, seed=seed).single(2, (32, 32), HARD) for seed in (1, 2))
    assert not torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (40, 40)])
def test_pictures_are_colours_between_0_and_1(
    pack: SpritePack, objects: tuple[NamedObject, ...], size: tuple[int, int]
):
    batch = SceneGenerator(pack, objects, seed=0).scenes(8, size, HARD)
    assert batch.pixels.shape == (8, 3, *size)
    assert batch.pixels.min() >= 0
    assert batch.pixels.max() <= 1


def test_boxes_lie_inside_their_picture_and_enclose_something(pack: SpritePack, objects: tuple[NamedObject, ...]):
    batch = SceneGenerator(pack, objects, seed=0).scenes(16, (48, 64), HARD)
    for boxes, present in zip(batch.boxes_xyxy, batch.objects, strict=True):
        assert len(boxes) == len(present) >= 1
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([64.0, 48.0, 64.0, 48.0])).all()


def test_a_box_is_tight_around_what_differs_from_a_flat_background(pack: SpritePack, objects: tuple[NamedObject, ...]):
    one = replace(PLAIN, smallest=0.5, largest=0.5, busy=-1.0, most_objects=1)
    generator = SceneGenerator(pack, objects, seed=5)
    for _ in range(5):
        batch = generator.scenes(1, (96, 96), one)
        picture, box = batch.pixels[0], batch.boxes_xyxy[0][0]
        changed = (picture - picture[:, :1, :1]).abs().amax(0) > 0.1
        outside = changed.clone()
        outside[int(box[1]) - 2 : int(box[3]) + 2, int(box[0]) - 2 : int(box[2]) + 2] = False
        assert changed.any()
        assert not outside.any()


def test_difficulty_changes_the_size_of_objects(pack: SpritePack, objects: tuple[NamedObject, ...]):
    def mean_side(config: SceneConfig) -> float:
        batch = SceneGenerator(pack, objects, seed=0).scenes(16, (64, 64), config)
        boxes = torch.cat(batch.boxes_xyxy)
        return float((boxes[:, 2:] - boxes[:, :2]).amax(1).mean())

    large = SceneConfig(smallest=0.7, largest=0.9)
    assert mean_side(PLAIN) < mean_side(large) * 0.8


def test_difficulty_changes_evenly_from_easy_to_full():
    easy, full = SceneConfig(smallest=0.8, most_objects=2), SceneConfig(smallest=0.2, most_objects=6)
    assert (easy.toward(full, 0.0), easy.toward(full, 1.0)) == (easy, full)
    half = easy.toward(full, 0.5)
    assert (half.smallest, half.most_objects) == (pytest.approx(0.5), 4)
    assert EASY.smallest > HARD.smallest


def test_a_picture_keeps_its_colours_as_eight_bits():
    pixels = torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(3, 2, 4)
    image = to_image(pixels)
    assert (image.size, image.mode, image.getpixel((3, 1))) == ((4, 2), "RGB", (0, 128, 255))


def test_every_object_and_style_is_drawn_sooner_or_later(pack: SpritePack, objects: tuple[NamedObject, ...]):
    batch = SceneGenerator(pack, objects, seed=0).single(600, (16, 16), PLAIN)
    assert set(batch.objects.tolist()) == set(range(len(objects)))


def test_objects_painted_in_a_colour_tell_which_unless_their_name_has_one(pack: SpritePack):
    slugs = list(pack.rows)[:2]
    objects = (NamedObject("thing", (slugs[0],)), NamedObject("green book", (slugs[1],)))
    batch = SceneGenerator(pack, objects, seed=0).scenes(40, (32, 32), replace(PLAIN, painted=1.0))
    chosen, colours = torch.cat(batch.objects), torch.cat(batch.colours)
    assert set(colours[chosen == 0].tolist()) <= set(range(len(COLOUR_WORDS)))
    assert len(colours[chosen == 0].unique()) > 5
    assert (colours[chosen == 1] == -1).all()


def test_pictures_may_show_one_object_again_and_again(pack: SpritePack, objects: tuple[NamedObject, ...]):
    batch = SceneGenerator(pack, objects, seed=0).scenes(10, (48, 48), replace(PLAIN, repeated=1.0))
    assert any(len(present) > 1 for present in batch.objects)
    assert all(len(present.unique()) <= 1 for present in batch.objects)


def test_what_is_mostly_covered_does_not_count_as_shown():
    alpha, cover = torch.ones(10, 10), torch.zeros(10, 10)
    shown = _DrawnObject(torch.tensor(0), torch.tensor(-1), alpha)
    cover[:6] = 1
    shown.cover(cover)
    assert shown.is_visible()
    cover[:8] = 1
    shown.cover(cover)
    assert not shown.is_visible()


@pytest.mark.parametrize(("label", "sides"), [("thing", {True, False}), ("thing tilted left", {True})])
def test_names_of_a_side_are_not_drawn_mirrored(label: str, sides: set[bool]):
    half = torch.zeros(1, 3, 4, 96, 96, dtype=torch.uint8)
    half[..., 2:48] = 255
    pack = SpritePack(half, {"half": (0,)}, {"half": ()})
    generator = SceneGenerator(pack, (NamedObject(label, ("half",)),), seed=0)
    place = Placement.random(20, (40, 40), min_side=0.5, max_side=0.5, max_angle=0.0, generator=generator.generator)
    place = replace(place, centre=torch.full((20, 2), 20.0))
    alpha = generator._layer(torch.zeros(20, dtype=torch.long), place, (40, 40), PLAIN)[0][:, 3]
    assert set((alpha[:, :, :20].sum((1, 2)) > alpha[:, :, 20:].sum((1, 2))).tolist()) == sides
