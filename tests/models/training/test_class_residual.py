"""A residual that learns drawings and leaves photographs as they are; features that are computed once."""

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from models.clip.config import EfficientNetTowerConfig, ResNetTowerConfig
from models.clip.model import EfficientNetTower, ResNetTower
from models.layers.configs import EfficientNetConfig, ResNetConfig
from models.synthetic.photo_pack import load_photographs
from models.synthetic.photo_scenes import PhotoSceneGenerator
from models.synthetic.scenes import SceneGenerator
from models.synthetic.sprites import SMALL_PACK, NamedObject, load_pack, read_names
from models.training.class_residual import (
    BLOCK,
    IMAGE_SIZE,
    PREPROCESSING,
    Features,
    FitConfig,
    adapt_pixels,
    collect,
    fit,
    pictures,
)
from server.contract.manifest import Preprocessing
from tests.models.synthetic.photographs import LABELS, write_photographs

SMALL = EfficientNetConfig(
    widths=(4, 4, 4, 4, 8, 8, 8), repeats=(1,) * 7, stem=4, head=16, classes=6, words=12
)  # fmt: skip


DRAWINGS = ResNetTowerConfig(32, ResNetConfig((1, 1, 1, 1), 4), pool="average")


def small_tower():
    return EfficientNetTower(EfficientNetTowerConfig(32, SMALL, DRAWINGS), SMALL.words).eval()


def test_drawings_are_learnt_and_photographs_stay_what_they_were():
    torch.manual_seed(0)
    tower, names = small_tower(), functional.normalize(torch.randn(8, SMALL.words), dim=1)
    words, output = tower.words, tower.drawings.output
    with torch.no_grad():
        functional.normalize(words.embeddings.weight, dim=0, out=words.embeddings.weight)
    centres = torch.randn(16, SMALL.head)
    labels = torch.randint(8, (1600,))
    is_photo = torch.arange(1600) % 2 == 0
    pooled = centres[labels + 8 * is_photo] + 0.2 * torch.randn(1600, SMALL.head)
    drawn = functional.normalize(torch.randn(16, SMALL.words)[labels] + 0.2 * torch.randn(1600, SMALL.words), dim=1)
    features = Features(pooled.half(), drawn.half(), labels, is_photo)
    with torch.no_grad():
        before = functional.normalize(words.embed(pooled), dim=1)
    fit(tower, features, names, FitConfig(steps=300, learning_rate=1e-2), seed=0)
    with torch.no_grad():
        both = [words.embed(pooled, output(drawn)), words.embed(pooled)]
    for after in (functional.normalize(one, dim=1) for one in both):
        learnt = ((after @ names.T).argmax(1) == labels).float()
        assert learnt[~is_photo].mean() > 0.95
        kept = (after * before).sum(1)
        assert kept[is_photo].mean() > 0.95
        assert kept[~is_photo].mean() < kept[is_photo].mean() - 0.05


def test_tower_of_drawings_sees_what_it_has_learnt_from():
    torch.manual_seed(0)
    tower, learnt = (
        ResNetTower(DRAWINGS, SMALL.words).eval(),
        Preprocessing(resize="shorter_crop", shorter=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    )
    values = torch.rand(1, 3, 32, 32)
    old, new = (
        (values - torch.tensor(rules.mean)[:, None, None]) / torch.tensor(rules.std)[:, None, None]
        for rules in (learnt, PREPROCESSING)
    )
    convolution, norm = tower.backbone.stem[0], tower.backbone.stem[1]
    with torch.no_grad():
        norm.running_mean.uniform_()
        expected = norm(convolution(old))
        adapt_pixels(tower, learnt)
        found = norm(convolution(new))
    torch.testing.assert_close(found[..., 1:, 1:], expected[..., 1:, 1:])  # zeros pad the upper and left edge


class Interrupted(Exception):
    """The end of a run before its time."""


def test_features_are_kept_and_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    tower = small_tower()
    drawn: list[int] = []

    def blocks(first: int):
        for number in itertools.count(first):
            drawn.append(number)
            if number == 3 and drawn.count(3) == 1:
                raise Interrupted
            yield [Image.new("RGB", (32, 32), (number * 20, 90, 30))] * BLOCK, ["dog"] * BLOCK, number % 2 == 0

    monkeypatch.setattr("models.training.class_residual.SAVED_EVERY", 1)
    with pytest.raises(Interrupted):
        collect(tower, blocks, ["cat", "dog"], 5, tmp_path / "features.pt")
    found = collect(tower, blocks, ["cat", "dog"], 5, tmp_path / "features.pt")
    assert drawn == [0, 1, 2, 3, 3, 4]
    assert found.pooled.shape == (5 * BLOCK, SMALL.head)
    assert found.labels.tolist() == [1] * 5 * BLOCK
    assert found.is_photo[::BLOCK].tolist() == [True, False, True, False, True]
    whole = collect(tower, lambda first: itertools.islice(blocks(first), 5), ["cat", "dog"], 5, tmp_path / "other.pt")
    assert torch.equal(found.pooled, whole.pooled)
    assert torch.equal(found.drawn, whole.drawn)
    assert found.drawn.shape == (5 * BLOCK, SMALL.words)


def test_blocks_show_photographs_and_drawings_of_the_names(tmp_path: Path):
    pack, sprites = load_photographs(write_photographs(tmp_path / "photographs.zip")), load_pack(SMALL_PACK)
    objects = read_names(pack=sprites)
    shown = [NamedObject(label, ()) for label in LABELS]
    generators = (
        PhotoSceneGenerator(pack, sprites, shown, held_out=False),
        PhotoSceneGenerator(pack, sprites, objects, held_out=False),
        SceneGenerator(sprites, objects, seed=0),
    )
    blocks = list(itertools.islice(pictures(*generators, seed=0), 6))
    assert {is_photo for _, _, is_photo in blocks} == {True, False}
    for images, labels, is_photo in blocks:
        assert {image.size for image in images} == {(IMAGE_SIZE, IMAGE_SIZE)}
        assert set(labels) <= (set(LABELS) if is_photo else {item.label for item in objects})
    (again,) = itertools.islice(pictures(*generators, seed=0, first=4), 1)
    assert again[1] == blocks[4][1]
