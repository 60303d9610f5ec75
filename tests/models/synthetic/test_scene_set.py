"""Generated scenes as records: pure functions of their number, with prompts that are true of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.collate import all_boxes
from models.data.datasets import OpenContext
from models.data.grounding_prompts import GroundedPrompt, PromptConfig, PromptSampler
from models.data.records import ClassificationRecord, DetectionRecord, GroundingRecord, Record
from models.synthetic.label_phrases import vocabulary_texts
from models.synthetic.scene_set import SCENE_SIZES, ScenesConfig, SceneSet
from models.synthetic.scenes import COLOUR_WORDS, SceneConfig
from models.tokenizers import text_rules, write_vocabulary
from server.contract.image import resized_size
from server.contract.manifest import Preprocessing
from server.contract.text import PromptTokenizer

HERE = Path()
SIZE = Preprocessing(resize="shorter_longer", shorter=48, longer=64, mean=(0.5,) * 3, std=(0.2,) * 3)
SQUARE = SIZE.model_copy(update={"resize": "shorter_crop", "shorter": 32})
FULL = SceneConfig(smallest=0.2, largest=0.6, most_objects=4, painted=0.5)


def scenes(prompts: PromptConfig = PromptConfig(), *, held_out: bool = False, **entries: Any) -> SceneSet:  # noqa: B008
    config = ScenesConfig.model_validate({"format": "scenes", "block": 4, "full": FULL, **entries})
    preprocessing = SQUARE if config.single else SIZE
    return config.open(OpenContext(HERE, preprocessing, prompts=prompts, held_out=held_out))


def pixels(record: Record) -> np.ndarray:
    return np.asarray(record.picture.open())


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> PromptSampler:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    objects = ScenesConfig(format="scenes").objects(HERE)
    write_vocabulary([*vocabulary_texts(objects), *COLOUR_WORDS, "on left right at top bottom small large"], file)
    rules = text_rules(file, "phrases", max_tokens=256)
    return PromptSampler(PromptTokenizer(file, rules), 256, PromptConfig(negatives=12))


def asked(sampler: PromptSampler, record: DetectionRecord | GroundingRecord) -> GroundedPrompt:
    boxes = all_boxes(record)
    return sampler.sample(record, boxes, np.arange(len(boxes)), np.random.default_rng(0))


def test_a_number_gives_the_same_scene_whatever_was_drawn_before():
    one, other = scenes(), scenes()
    backwards = {number: other.generate(number, seed=3, total=40) for number in (9, 4, 0)}
    for number, record in backwards.items():
        found = one.generate(number, seed=3, total=40)
        assert isinstance(found, GroundingRecord)
        assert isinstance(record, GroundingRecord)
        assert np.array_equal(pixels(found), pixels(record))
        assert found.caption == record.caption
    assert not np.array_equal(pixels(one.generate(0, seed=3, total=40)), pixels(one.generate(1, seed=3, total=40)))
    assert not np.array_equal(pixels(one.generate(0, seed=3, total=40)), pixels(one.generate(0, seed=4, total=40)))


def test_a_block_has_pictures_of_one_size_as_the_model_reads_them():
    made = scenes()
    for block in range(6):
        records = [made.generate(4 * block + row, seed=0, total=40) for row in range(4)]
        sizes = {record.picture.open().size for record in records}
        assert len(sizes) == 1
        size = sizes.pop()
        assert size[::-1] in {resized_size(*whole, SIZE) for whole in SCENE_SIZES}
        assert all(record.finished for record in records)


def test_pictures_are_smaller_at_first_if_the_recipe_says_so():
    made = scenes(small=0.5, block=1)

    def smallest(blocks: range) -> int:
        return min(min(made.generate(block, seed=0, total=40).picture.open().size) for block in blocks)

    usual = min(min(resized_size(*whole, SIZE)) for whole in SCENE_SIZES)
    assert smallest(range(12)) < usual <= smallest(range(25, 37))


def test_pictures_become_harder_until_a_share_of_the_run():
    sides = SceneConfig(smallest=0.2, largest=0.2, most_objects=1, degrade=0.0)
    made = scenes(full=sides, easy=SceneConfig(smallest=0.9, largest=0.9, most_objects=1, degrade=0.0), until=0.5)

    def mean_side(numbers: range) -> float:
        found = [all_boxes(made.generate(number, seed=0, total=80)) for number in numbers]
        return float(np.mean([max(box[2] - box[0], box[3] - box[1]) for boxes in found for box in boxes]))

    first, middle, last, end = (mean_side(range(start, start + 8)) for start in (0, 20, 40, 72))
    assert first > middle > last
    assert last == pytest.approx(end, rel=0.4)
    assert all_boxes(made.generate(0, seed=0, total=0)).max() < 64  # outside of a run, all are of full difficulty


def test_labels_of_a_prompt_name_the_boxes_they_are_true_of(sampler: PromptSampler):
    made = scenes(PromptConfig(absent=0.0, asked=1.0, described=0.5))
    for number in range(8):
        record = made.generate(number, seed=0, total=0)
        assert isinstance(record, GroundingRecord)
        found = asked(sampler, record)
        texts = [label.text for label in found.prompt.labels]
        assert f"{'. '.join(texts)}. " == record.caption
        assert len(found.labels) == len(record.regions) == len(texts)
        for box, tokens in zip(found.boxes_xyxy, found.positive, strict=True):
            owners = {int(owner) for owner in found.prompt.token_label[tokens]}
            true = {place for place, region in enumerate(record.regions) if (region.boxes_xyxy == box).all(1).any()}
            assert owners == true


def test_a_prompt_of_labels_has_the_tokens_that_serving_gives_it(sampler: PromptSampler):
    record = scenes().generate(0, seed=0, total=0)
    assert isinstance(record, GroundingRecord)
    found = asked(sampler, record).prompt
    served = sampler._tokenizer.from_labels([label.text for label in found.labels])
    assert served.key == found.key
    assert np.array_equal(served.token_label, found.token_label)


def test_prompts_of_absent_things_alone_name_no_box(sampler: PromptSampler):
    made = scenes(PromptConfig(absent=1.0))
    for number in range(4):
        found = asked(sampler, made.generate(number, seed=0, total=0))
        assert found.prompt.labels
        assert len(found.boxes_xyxy) == 0


def test_held_out_scenes_are_other_pictures_of_full_size_with_their_categories(sampler: PromptSampler):
    made = scenes(held_out=True, block=1)
    for number, size in enumerate(SCENE_SIZES[:3]):
        record = made.generate(number, seed=0, total=0)
        assert isinstance(record, DetectionRecord)
        assert pixels(record).shape[:2] == size
        assert not record.finished
        assert record.absent is not None
        assert not set(record.absent) & set(record.labels.tolist())
        assert set(asked(sampler, record).box_labels or ()) == {record.names[label] for label in record.labels}
        silent = asked(sampler.with_absent(1.0), record)
        assert silent.box_labels == ()


def test_single_objects_are_records_of_their_class():
    made = scenes(single=True)
    found = [made.generate(number, seed=0, total=40) for number in range(24)]
    assert all(isinstance(record, ClassificationRecord) and record.finished for record in found)
    labels = {record.label for record in found if isinstance(record, ClassificationRecord)}
    assert len(labels) > 8
    assert {record.picture.open().size for record in found} == {(32, 32)}
    held_out = scenes(single=True, held_out=True).generate(0, seed=0, total=0)
    assert min(pixels(held_out).shape[:2]) > 200


def test_a_style_and_a_list_of_names_can_be_chosen(tmp_path: Path):
    (tmp_path / "names.txt").write_text("dog: dog\ncat: cat\n")
    config = ScenesConfig(format="scenes", names=Path("names.txt"), styles=("noto",))
    assert [item.label for item in config.objects(tmp_path)] == ["dog", "cat"]
