"""Layers that learn to name drawings in cells, and leave photographs and empty places as they are."""

import argparse
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.layers.backbone import EfficientNetStages, drawn_cells
from models.layers.configs import BertConfig, EfficientNetConfig
from models.layers.efficientnet import DrawnWords
from models.layers.word_scores import WordScores, in_boxes
from models.synthetic.photo_pack import PERSON, load_photographs
from models.synthetic.photo_scenes import PhotoSceneGenerator
from models.synthetic.rebuild_people import add_people
from models.synthetic.scenes import SceneGenerator
from models.synthetic.sprites import SMALL_PACK, NamedObject, load_pack, read_names
from models.training import drawn_words
from models.training.class_residual import open_people
from models.training.drawn_words import (
    BLOCK,
    EMPTY,
    CellFitConfig,
    Cells,
    Scene,
    SceneSource,
    cells_in_boxes,
    cells_of,
    collect,
    empty_box,
    fit,
    known_words,
    people_block,
    with_drawn,
)
from tests.models.synthetic.photographs import LABELS, flat_cutout, write_photographs

SMALL = EfficientNetConfig((4, 4, 6, 6, 8, 8, 10), (1,) * 7, stem=4, head=16, classes=6, words=12)
CELL = sum(SMALL.map_channels[1:])
GLIP = GlipConfig(
    backbone=SMALL, text=BertConfig(30, 16, 1, 2, 32, 16), channels=16, extra_levels=0, anchor_sizes=(16, 32, 64),
    tower_layers=1, fusion_heads=2, fusion_hidden=16,
)  # fmt: skip


def small_backbone() -> EfficientNetStages:
    torch.manual_seed(0)
    return EfficientNetStages(SMALL, (1, 2, 3)).eval()


def scene_source(folder: Path) -> SceneSource:
    pack, sprites = load_photographs(write_photographs(folder / "photographs.zip")), load_pack(SMALL_PACK)
    objects, shown = read_names(pack=sprites), [NamedObject(label, ()) for label in LABELS]
    return SceneSource(
        PhotoSceneGenerator(pack, sprites, shown, held_out=False),
        PhotoSceneGenerator(pack, sprites, objects, held_out=False),
        SceneGenerator(sprites, objects, seed=0),
    )


def test_drawings_are_named_while_photographs_and_empty_places_stay():
    torch.manual_seed(0)
    count, names = 2400, functional.normalize(torch.randn(6, SMALL.words), dim=1)
    labels, is_photo = torch.randint(6, (count,)), torch.arange(count) % 3 == 0
    labels[1::6] = EMPTY
    centres = 3 * torch.randn(13, CELL)
    kind = torch.where(labels == EMPTY, 12, labels + 6 * is_photo)
    features = centres[kind][:, None] + 0.3 * torch.randn(count, 9, CELL) + 5
    known = 0.3 * torch.randn(count, 9, SMALL.words)
    layers = DrawnWords(replace(SMALL, drawn=32))
    with torch.no_grad():
        assert layers(features).abs().max() == 0  # nothing changes before
    fit(layers, Cells(features.half(), labels, is_photo), known, names, CellFitConfig(steps=400), seed=0)
    with torch.no_grad():
        added = layers(features)
    named = ((known + added).mean(1) @ names.T).argmax(1) == labels
    length = added.norm(dim=2).mean(1)
    drawing, empty = ~is_photo & (labels != EMPTY), labels == EMPTY
    assert named[drawing].float().mean() > 0.95
    assert length[is_photo & ~empty].mean() < 0.2 * length[drawing].mean()
    assert length[empty].mean() < 0.2 * length[drawing].mean()


def test_cells_of_a_box_are_those_that_the_detector_samples():
    height, width = 6, 8
    maps = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    boxes = torch.tensor([[16.0, 16.0, 112.0, 80.0]])
    cells = cells_in_boxes(maps[0], boxes, (96, 128))
    assert cells.shape == (1, 9, 1)
    scale = torch.tensor([128.0, 96.0, 128.0, 96.0])
    low, high = (boxes / scale).split(2, dim=1)
    sampled = in_boxes(maps, torch.cat([(low + high) / 2, high - low], 1)[None])
    assert abs(cells.mean() - sampled.mean()) < width  # within a row


def test_a_place_called_empty_touches_no_object():
    rng = random.Random(0)
    boxes = torch.tensor([[0.0, 0.0, 60.0, 96.0]])
    found = [box for _ in range(30) if (box := empty_box(boxes, (96, 128), rng)) is not None]
    assert found
    assert all(box[0, 0] >= 60 and box[0, 2] <= 128 and box[0, 3] <= 96 for box in found)
    assert empty_box(torch.tensor([[0.0, 0.0, 128.0, 96.0]]), (96, 128), rng) is None


def test_scenes_show_photographs_and_drawings_and_repeat_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawn_words, "SIZES", ((96, 128), (96, 96)))
    source = scene_source(tmp_path)
    blocks = [source.block(number) for number in range(8)]
    assert {block[0].is_photo for block in blocks} == {True, False}
    for block in blocks:
        assert len(block) == BLOCK
        for scene in block:
            assert len(scene.labels) == len(scene.boxes_xyxy)
            assert not scene.is_photo or set(scene.labels) <= set(LABELS)
    again = source.block(5)
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(again, blocks[5], strict=True))


def test_features_of_a_block_are_those_of_its_objects_and_of_an_empty_place():
    pixels = torch.rand(2, 3, 96, 128)
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 32.0], [64.0, 32.0, 96.0, 96.0]]), torch.zeros(0, 4)]
    scenes = [Scene(pixels[0], boxes[0], ["dog", "cat"], False), Scene(pixels[1], boxes[1], [], False)]
    backbone = small_backbone()
    cells = cells_of(backbone, scenes, {"cat": 0, "dog": 1}, random.Random(0))
    assert cells.labels.tolist()[:2] == [1, 0]
    assert set(cells.labels.tolist()[2:]) == {EMPTY}
    assert cells.features.shape[1:] == (9, CELL)
    with torch.no_grad():
        own = drawn_cells(*backbone.efficientnet((pixels * 255 - 127) / 128)[1:])[0]
    torch.testing.assert_close(cells.features[0, 4].float(), own[:, 1, 1], atol=0.05, rtol=0.05)  # bfloat16


def test_words_by_the_classes_are_those_of_the_map():
    backbone = small_backbone()
    with torch.no_grad():
        maps = backbone.efficientnet(torch.randn(1, 3, 64, 64))
        cells = drawn_cells(*maps[1:])[0].flatten(1).T.reshape(-1, 1, CELL)
        assert backbone.words is not None
        expected = backbone.words.of_cells(maps[-1])[0].flatten(1).T
    found = known_words(backbone, cells.expand(-1, 9, -1))[:, 0].reshape(4, 4, -1)
    torch.testing.assert_close(found[::2, ::2].reshape(4, -1), expected, atol=1e-5, rtol=1e-4)


class Interrupted(Exception):
    """The end of a run before its time."""


def test_cells_are_kept_and_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawn_words, "SAVED_EVERY", 1)
    asked: list[int] = []

    def block(number: int) -> Cells:
        asked.append(number)
        if asked.count(3) == 1 and number == 3:
            raise Interrupted
        return Cells(torch.full((2, 9, CELL), float(number)).half(), torch.tensor([number, EMPTY]), torch.zeros(2) > 0)

    with pytest.raises(Interrupted):
        collect(block, 5, tmp_path / "cells.pt")
    found = collect(block, 5, tmp_path / "cells.pt")
    assert asked == [0, 1, 2, 3, 3, 4]
    assert found.labels.tolist() == [0, EMPTY, 1, EMPTY, 2, EMPTY, 3, EMPTY, 4, EMPTY]
    assert found.features[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_detector_is_unchanged_but_for_the_map_of_words():
    torch.manual_seed(0)
    glip = Glip(GLIP).eval()
    layers = DrawnWords(replace(SMALL, drawn=8))
    torch.nn.init.normal_(layers.output.weight)
    changed = with_drawn(glip, layers)
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        *before, words = glip.encode_image(pixels)
        *after, finer = changed.encode_image(pixels)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
    assert words.shape == (1, SMALL.words, 2, 3)
    assert finer.shape == (1, SMALL.words, 4, 6)
    assert isinstance(changed.word_scores, WordScores)
    silent = with_drawn(glip, DrawnWords(replace(SMALL, drawn=8)))
    with torch.no_grad():
        torch.testing.assert_close(silent.encode_image(pixels)[-1][:, :, ::2, ::2], words)


def test_detectors_of_two_backbones_are_refused():
    torch.manual_seed(0)
    one, other = Glip(GLIP).eval(), Glip(GLIP).eval()
    with pytest.raises(ValueError, match="other has another backbone than one"):
        drawn_words._shared_backbone({"one": one, "other": other})
    assert drawn_words._shared_backbone({"one": one, "again": one}) is one.backbone


def test_people_of_a_pack_are_drawn_by_number_and_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawn_words, "SIZES", ((96, 128),))
    without = write_photographs(tmp_path / "photographs.zip")
    add_people(without, tmp_path / "people.zip", lambda rng: flat_cutout("pink"), 2)
    options = argparse.Namespace(photographs=tmp_path / "people.zip", sprites=SMALL_PACK)
    people = open_people(options)
    assert people is not None
    block, again = people_block(people, 3), people_block(people, 3)
    assert {label for scene in block for label in scene.labels} == {PERSON}
    assert not any(scene.is_photo for scene in block)
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(block, again, strict=True))
    assert open_people(argparse.Namespace(photographs=without, sprites=SMALL_PACK)) is None
