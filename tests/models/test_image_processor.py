"""Settings of image processors: every spelling is obeyed, or refused by the entry's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import UnknownCheckpoint
from models.image_processor import CLIP_MEAN, open_clip_rules, processor_rules
from server.contract.manifest import Preprocessing

DEFAULT = {"resize": "shorter_crop", "shorter": 224, "resample": "bicubic", "scale": 1 / 255, "mean": CLIP_MEAN}
SQUARE = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, DEFAULT),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}, DEFAULT),
        ({"image_processor_type": "CLIPImageProcessorFast", "crop_size": SQUARE}, DEFAULT),
        ({"size": {"shortest_edge": 224, "longest_edge": None}, "device": None, "do_convert_rgb": True}, DEFAULT),
        ({"image_processor_type": "BitImageProcessor", "rescale_factor": 0.00392156862745098}, DEFAULT),
        ({"rescale_factor": 0.003921569}, {"scale": 1 / 255}),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, {"shorter": 256, "crop": 224}),
        ({"size": 256, "crop_size": 224}, {"resize": "shorter_crop", "shorter": 256, "crop": 224}),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224}, {"resize": "square", "shorter": 256, "crop": 224}),
        ({"do_center_crop": False, "size": SQUARE}, {"resize": "square", "shorter": 224}),
        ({"do_center_crop": False, "size": [224, 224]}, {"resize": "square", "shorter": 224}),
        ({"image_processor_type": "ViTImageProcessor"}, {"resize": "square", "mean": (0.5,) * 3}),
        ({"image_processor_type": "SiglipImageProcessor"}, {"resize": "square", "resample": "bicubic"}),
        *(({"resample": number}, {"resample": name}) for number, name in enumerate(
            ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"])),
        ({"resample": "BILINEAR"}, {"resample": "bilinear"}),
        ({"resample": "PILImageResampling.BICUBIC"}, {"resample": "bicubic"}),
        ({"image_mean": 0.5, "image_std": 0.25}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"rescale_factor": 1 / 127.5}, {"scale": 1 / 127.5}),
        ({"do_grayscale": False, "crop_pct": None}, DEFAULT),
    ],
    ids=str,
)  # fmt: skip
def test_setting_is_obeyed(settings, wanted):
    rules = processor_rules(settings, "preprocessor_config.json", "clip")
    assert rules | wanted == rules
    Preprocessing(**rules)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type"),
        ({"do_resize": False}, "do_resize"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"do_grayscale": True}, "do_grayscale"),
        ({"auto_map": {"AutoImageProcessor": "own.Processor"}}, "auto_map"),
        ({"offset": True}, "offset"),
        ({"resample": 7}, "resample"),
        ({"resample": "sinc"}, "resample"),
        ({"resample": True}, "resample"),
        ({"size": {"longest_edge": 224}}, "size"),
        ({"size": {"height": 224, "width": 336}}, "size"),
        ({"size": {}}, "size"),
        ({"size": 0}, "size"),
        ({"size": 10**9}, "size"),
        ({"size": "224"}, "size"),
        ({"size": 224.5}, "size"),
        ({"crop_size": 336}, "crop_size"),
        ({"crop_size": {"height": 224, "width": 200}}, "crop_size"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": [0.5, 0.5, "x"]}, "image_mean"),
        ({"image_mean": float("nan")}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
    ],
    ids=str,
)
def test_setting_that_cannot_be_obeyed_is_refused_by_name(settings, named):
    with pytest.raises(UnknownCheckpoint, match=rf"preprocessor_config\.json has {named} .*cannot be obeyed"):
        processor_rules(settings, "preprocessor_config.json", "clip")


NAMES = st.sampled_from(
    ["size", "crop_size", "resample", "image_mean", "image_std", "do_resize", "do_center_crop", "rescale_factor",
     "do_rescale", "do_normalize", "image_processor_type", "max_size", "other"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["height", "width", "shortest_edge"]), inner)
    ),
)


@given(st.dictionaries(NAMES, VALUES), st.sampled_from(["clip", "grounding_dino"]))
def test_any_settings_become_rules_of_a_manifest_or_are_refused(settings, family):
    try:
        rules = processor_rules(settings, "p.json", family)
    except UnknownCheckpoint as refusal:
        told = str(refusal)
    else:
        told = "p.json" + Preprocessing(**rules).resize
    assert told.startswith("p.json")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {"resize": "shorter_crop", "shorter": 32, "resample": "bicubic", "mean": CLIP_MEAN}),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ({"interpolation": "bilinear", "resize_mode": "squash"}, {"resample": "bilinear", "resize": "square"}),
        ({"size": 48, "mode": "RGB", "fill_color": 0}, {"shorter": 48}),
        ({"size": [3, 48, 48]}, {"shorter": 48}),
    ],
    ids=str,
)
def test_open_clip_is_obeyed(settings, wanted):
    rules = open_clip_rules(settings, "open_clip_config.json", 32)
    assert rules | wanted == rules


@pytest.mark.parametrize(
    "settings",
    [{"resize_mode": "longest"}, {"interpolation": "random"}, {"mode": "L"}, {"size": [32, 48]}, {"x": 1}],
    ids=str,
)
def test_open_clip_that_cannot_be_obeyed_is_refused(settings):
    with pytest.raises(UnknownCheckpoint, match=r"open_clip_config\.json has .*cannot be obeyed"):
        open_clip_rules(settings, "open_clip_config.json", 32)
