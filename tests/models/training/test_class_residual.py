"""A residual that learns drawings and leaves photographs as they are; features that are computed once."""

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from models.clip.config import EfficientNetTowerConfig
from models.clip.model import EfficientNetTower
from models.layers.efficientnet import ClassWords, EfficientNetConfig
from models.synthetic.photo_pack import load_photographs
from models.synthetic.photo_scenes import PhotoSceneGenerator
from models.synthetic.scenes import SceneGenerator
from models.synthetic.sprites import SMALL_PACK, NamedObject, load_pack, read_names
from models.training.class_residual import BLOCK, IMAGE_SIZE, Features, FitConfig, collect, fit, pictures
from tests.models.synthetic.photographs import LABELS, write_photographs

SMALL = EfficientNetConfig(
    widths=(4, 4, 4, 4, 8, 8, 8), repeats=(1,) * 7, stem=4, head=16, classes=6, words=12
)  # fmt: skip


def test_drawings_are_learnt_and_photographs_stay_what_they_were():
    torch.manual_seed(0)
    words, names = ClassWords(SMALL), functional.normalize(torch.randn(8, SMALL.words), dim=1)
    with torch.no_grad():
        functional.normalize(words.embeddings.weight, dim=0, out=words.embeddings.weight)
    centres = torch.randn(16, SMALL.head)
    labels = torch.randint(8, (1600,))
    is_photo = torch.arange(1600) % 2 == 0
    pooled = centres[labels + 8 * is_photo] + 0.2 * torch.randn(1600, SMALL.head)
    features = Features(pooled.half(), labels, is_photo)
    with torch.no_grad():
        before = functional.normalize(words.embed(pooled), dim=1)
    fit(words, features, names, FitConfig(steps=300, learning_rate=1e-2), seed=0)
    with torch.no_grad():
        after = functional.normalize(words.embed(pooled), dim=1)
    learnt = ((after @ names.T).argmax(1) == labels).float()
    assert learnt[~is_photo].mean() > 0.95
    assert (after[is_photo] * before[is_photo]).sum(1).mean() > 0.95
    assert (after[~is_photo] * before[~is_photo]).sum(1).mean() < 0.8


class Interrupted(Exception):
    """The end of a run before its time."""


def test_features_are_kept_and_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    tower = EfficientNetTower(EfficientNetTowerConfig(32, SMALL), SMALL.words).eval()
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
