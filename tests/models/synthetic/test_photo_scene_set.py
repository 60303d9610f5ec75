"""Scenes on photographs as records: pure functions of their number, with prompts that are true of them."""

from pathlib import Path

import numpy as np
import pytest

from models.data.datasets import OpenContext
from models.data.grounding_prompts import PromptConfig
from models.data.records import ClassificationRecord, DetectionRecord, GroundingRecord
from models.synthetic.photo_scene_set import SCENERY, PhotoScenesConfig, PhotoSceneSet
from models.synthetic.scene_set import SCENE_SIZES
from server.contract.image import resized_size
from server.contract.manifest import Preprocessing
from tests.models.synthetic.photographs import HELD_OUT, LABELS, write_photographs

SIZE = Preprocessing(resize="shorter_longer", shorter=48, longer=64, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("pack") / "photographs.zip")


def opened(pack: Path, *, held_out: bool = False, absent: float = 0.3, **entries) -> PhotoSceneSet:
    config = PhotoScenesConfig.model_validate({"format": "photo_scenes", "photographs": pack, **entries})
    return config.open(OpenContext(Path(), SIZE, prompts=PromptConfig(absent=absent), held_out=held_out))


def test_a_number_gives_the_same_scene_whatever_was_drawn_before(pack):
    one, other = opened(pack), opened(pack)
    backwards = {number: other.generate(number, seed=3, total=40) for number in (9, 4, 0)}
    for number, record in backwards.items():
        found = one.generate(number, seed=3, total=40)
        assert isinstance(found, GroundingRecord)
        assert isinstance(record, GroundingRecord)
        assert np.array_equal(np.asarray(found.picture.open()), np.asarray(record.picture.open()))
        assert found.caption == record.caption


def test_every_prompt_names_something_and_its_boxes_lie_in_the_picture(pack):
    scenes = opened(pack, absent=0.6)
    sizes = {resized_size(*size, SIZE) for size in SCENE_SIZES}
    for number in range(80):
        record = scenes.generate(number, seed=0, total=80)
        assert isinstance(record, GroundingRecord)
        image = record.picture.open()
        assert (image.height, image.width) in sizes
        assert record.regions
        for region in record.regions:
            (start, end), *_ = region.spans
            assert record.caption[start:end].strip()
            assert (region.boxes_xyxy <= (image.width, image.height) * 2).all()


def test_scenery_is_never_called_absent(pack):
    scenes = opened(pack, absent=1.0)
    for number in range(60):
        record = scenes.generate(number, seed=1, total=60)
        assert isinstance(record, GroundingRecord)
        for region in record.regions:
            (start, end), *_ = region.spans
            assert not len(region.boxes_xyxy)
            assert not set(record.caption[start:end].split()) & SCENERY


def test_validation_has_names_of_its_own(pack):
    record = opened(pack, held_out=True).generate(0, seed=0, total=0)
    assert isinstance(record, DetectionRecord)
    assert set(record.names) == set(HELD_OUT)
    assert record.absent is not None
    assert set(record.absent).isdisjoint(record.labels.tolist())


def test_single_pictures_are_of_the_names_that_are_learnt(pack):
    scenes = opened(pack, single=True)
    record = scenes.generate(5, seed=0, total=10)
    assert isinstance(record, ClassificationRecord)
    assert set(LABELS) <= set(record.names)
    assert not set(HELD_OUT) & set(record.names)
    held = opened(pack, single=True, held_out=True).generate(5, seed=0, total=0)
    assert isinstance(held, ClassificationRecord)
    assert held.names == record.names
    assert not held.finished
