"""Grounding DINO's preprocessing as its image processor tells it."""

from pathlib import Path

import pytest

from models import UnknownCheckpoint
from models.checkpoints import StoredWeights
from models.files_beside import FilesBeside
from models.grounding_dino.config import SWIN_T
from models.grounding_dino.description import described_config, preprocessing_rules

CONFIG = {"model_type": "grounding-dino"}


def stored(settings, config=CONFIG, **others):
    files = (("preprocessor_config.json", settings), *others.items())
    return StoredWeights({}, (Path("x"),), FilesBeside(config=config, processors=files))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {"shorter": 800, "longer": 1333, "resample": "bilinear", "mean": (0.485, 0.456, 0.406)}),
        ({"size": {"shortest_edge": 480, "longest_edge": 640}}, {"shorter": 480, "longer": 640}),
        ({"size": 600, "max_size": 900}, {"shorter": 600, "longer": 900}),
        ({"size": 600}, {"shorter": 600, "longer": 1333}),
        ({"size": {"height": 640, "width": 640}}, {"resize": "square", "shorter": 640, "longer": None}),
        ({"image_mean": 0.5, "image_std": [0.25] * 3, "resample": 3}, {"mean": (0.5,) * 3, "resample": "bicubic"}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"image_processor_type": "GroundingDinoImageProcessorFast", "do_pad": True, "format": "coco_detection"}, {}),
    ],
    ids=str,
)
def test_processor_is_obeyed(settings, wanted):
    rules = preprocessing_rules(stored(settings), "huggingface", SWIN_T)
    assert rules | wanted == rules


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 800}},
        {"do_center_crop": True, "crop_size": 224, "size": {"height": 256, "width": 256}},
        {"image_processor_type": "CLIPImageProcessor"},
        {"size": {"max_height": 800, "max_width": 800}},
    ],
    ids=str,
)
def test_processor_that_cannot_be_obeyed_is_refused(settings):
    with pytest.raises(UnknownCheckpoint, match=r"preprocessor_config\.json"):
        preprocessing_rules(stored(settings), "huggingface", SWIN_T)


def test_processors_that_contradict_each_other_are_refused():
    with pytest.raises(UnknownCheckpoint, match="tell different preprocessing"):
        preprocessing_rules(stored({}, processor={"size": 600}), "huggingface", SWIN_T)


def test_file_of_idea_passes_over_what_describes_something_else():
    assert preprocessing_rules(stored({"size": 224}, {"model_type": "clip"}), "idea", SWIN_T) == {}
    assert preprocessing_rules(stored({"size": 600}), "idea", SWIN_T)["shorter"] == 600
    assert (described_config(stored({}), "idea"), described_config(stored({}), "huggingface")) == (None, CONFIG)
