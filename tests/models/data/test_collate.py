"""Records become examples, and examples batches, of what the model reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data.augmentation import DetectorAugmentation, SquareAugmentation
from models.data.collate import (
    DetectionCollator,
    DetectionExample,
    DetectionTransform,
    ImageTextTransform,
    collate_image_text,
    relative_boxes,
)
from models.data.grounding_prompts import PromptConfig, PromptSampler
from models.data.images import DataError, DrawnPicture
from models.data.records import CaptionRecord, ClassificationRecord, DetectionRecord, GroundingRecord, Region
from models.tokenizers import small_wordpiece, text_rules
from server.contract.text import PromptTokenizer, SentenceTokenizer
from tests.models.data.annotated_sets import SIZE

NAMES = ("cat", "dog", "bird")
PICTURE = DrawnPicture(Image.new("RGB", (80, 60), "gray"), "drawn")
BOXES = np.asarray([[10, 20, 50, 40]], np.float32)
DETECTION = DetectionRecord(PICTURE, BOXES, np.asarray([1]), NAMES, "here")
GROUNDING = GroundingRecord(PICTURE, "a dog. a cat.", (Region(((0, 5),), BOXES), Region(((7, 12),), BOXES[:0])), "here")
SQUARE = SIZE.model_copy(update={"resize": "shorter_crop", "shorter": 32})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    small_wordpiece([*NAMES, "a"]).save(str(file))
    return file


@pytest.fixture(scope="module")
def prompts(file: Path) -> PromptSampler:
    return PromptSampler(PromptTokenizer(file, text_rules(file, "phrases", max_tokens=64)), 64, PromptConfig())


def example(prompts: PromptSampler, record: DetectionRecord | GroundingRecord, **options) -> DetectionExample:
    return DetectionTransform(prompts, SIZE, **options)(record, np.random.default_rng(0))


def test_a_picture_is_resized_with_its_boxes(prompts: PromptSampler):
    made = example(prompts, DETECTION)
    assert made.pixels.shape == (3, 64, 85)
    torch.testing.assert_close(
        made.boxes_xyxy, torch.tensor([[10 * 85 / 80, 20 * 64 / 60, 50 * 85 / 80, 40 * 64 / 60]])
    )
    assert made.grounded.box_labels == ("dog",)


def test_a_finished_picture_is_neither_resized_nor_augmented(prompts: PromptSampler):
    finished = GroundingRecord(PICTURE, GROUNDING.caption, GROUNDING.regions, "here", finished=True)
    made = example(prompts, finished, augmentation=DetectorAugmentation(flip=1.0, crop=1.0, shorter=(20,)))
    assert made.pixels.shape == (3, 60, 80)
    torch.testing.assert_close(made.boxes_xyxy, torch.from_numpy(BOXES))
    assert len(made.grounded.labels) == 2  # the cat is named, and nowhere


def test_held_out_examples_also_ask_for_absent_things(prompts: PromptSampler):
    made = example(prompts, DETECTION, absent_prompts=prompts.with_absent(1.0))
    assert made.absent is not None
    assert {label.text for label in made.absent.labels} <= {"cat", "bird"}
    everything = DetectionRecord(PICTURE, BOXES, np.asarray([0]), ("cat",), "here")
    assert example(prompts, everything, absent_prompts=prompts.with_absent(1.0)).absent is None


def test_denoising_queries_are_made_of_boxes_in_parts_of_the_picture(prompts: PromptSampler):
    seen = []
    example(prompts, DETECTION, denoising=lambda *arguments: seen.append(arguments))
    boxes, positive, labels, generator = seen[0]
    torch.testing.assert_close(boxes, relative_boxes(torch.from_numpy(BOXES), (60, 80)))
    assert positive.shape[1] == labels.shape[1]
    assert isinstance(generator, torch.Generator)


def test_pictures_of_any_size_are_padded_to_one_batch(prompts: PromptSampler):
    tall = DetectionRecord(DrawnPicture(Image.new("RGB", (60, 90)), ""), BOXES, np.asarray([0]), NAMES, "here")
    examples = [example(prompts, DETECTION), example(prompts, tall)]
    batch = DetectionCollator(32, keep=True)(examples)
    assert batch.pixels.shape == (2, 3, 96, 96)
    assert batch.sizes == [(64, 85), (96, 64)]
    assert batch.mask.sum((1, 2)).tolist() == [64 * 85, 96 * 64]
    assert not batch.pixels[0, :, 64:].any()
    assert {positive.shape[1] for positive in batch.positive} == {batch.text["input_ids"].shape[1]}
    assert list(batch.examples) == examples
    assert batch.to(torch.device("cpu")).pixels is batch.pixels
    assert DetectionCollator(32)(examples).examples == ()


def test_captions_and_classes_make_one_batch(file: Path):
    transform = ImageTextTransform(
        SentenceTokenizer(file, text_rules(file, "sentence", max_tokens=8)), SQUARE, SquareAugmentation()
    )
    small = DrawnPicture(Image.new("RGB", (16, 16)), "")
    records = [
        CaptionRecord(PICTURE, ("a dog",), "here"),
        ClassificationRecord(small, 2, NAMES, "here", finished=True),
        GROUNDING,
    ]
    examples = [transform(record, np.random.default_rng(0)) for record in records]
    assert examples[1][0].shape == (3, 16, 16)
    batch = collate_image_text(examples)
    assert batch.pixels.shape == (3, 3, 32, 32)
    assert batch.picture_keys.tolist() == [-1, 2, -2]
    assert batch.text_keys.tolist() == [-1, -2]
    assert batch.input_ids.shape[0] == 2
    assert collate_image_text(examples[1:2]).input_ids.shape == (0, 1)


def test_records_without_what_a_model_needs_are_refused(file: Path, prompts: PromptSampler):
    with pytest.raises(DataError, match="here: a record without boxes cannot train a detector"):
        DetectionTransform(prompts, SIZE)(CaptionRecord(PICTURE, ("a dog",), "here"), np.random.default_rng(0))
    texts = SentenceTokenizer(file, text_rules(file, "sentence", max_tokens=8))
    with pytest.raises(DataError, match="here: boxes without a caption cannot train a CLIP"):
        ImageTextTransform(texts, SQUARE)(DETECTION, np.random.default_rng(0))


def test_a_caption_over_the_limit_keeps_the_first_words_that_fit(file: Path):
    texts = SentenceTokenizer(file, text_rules(file, "sentence", max_tokens=5))
    long = CaptionRecord(PICTURE, ("a dog a cat a bird",), "here")
    _, ids = ImageTextTransform(texts, SQUARE)(long, np.random.default_rng(0))
    assert isinstance(ids, torch.Tensor)
    assert ids.tolist() == texts.encode(["a dog a"])[0].tolist()
