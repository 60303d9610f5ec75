"""Settings of a published image processor as preprocessing rules: every one is obeyed, or refused by name.

Spellings are those of transformers from the feature extractors of 2021 to today, and of open_clip's `preprocess_cfg`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from models import UnknownCheckpoint

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_ALL = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_center_crop": False}
_CLIP = {
    **_ALL, "do_center_crop": True, "size": {"shortest_edge": 224}, "crop_size": 224, "resample": 3,
    "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
}  # fmt: skip
_DETR = {
    **_ALL, "size": {"shortest_edge": 800, "longest_edge": 1333}, "resample": 2,
    "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225),
}  # fmt: skip
_SQUARE = {**_ALL, "size": {"height": 224, "width": 224}, "image_mean": _HALF, "image_std": _HALF}
# Defaults of transformers' processors, by their names without the ending; those of a family first.
PROCESSORS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "CLIP": _CLIP, "ChineseCLIP": _CLIP, "Bit": _CLIP,
        "ViT": _SQUARE | {"resample": 2}, "Siglip": _SQUARE | {"resample": 3},
    },
    "grounding_dino": {"GroundingDino": _DETR, "DeformableDetr": _DETR, "Detr": _DETR, "ConditionalDetr": _DETR},
}  # fmt: skip
# Pillow's numbers, which processors store, and the words of others.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Entries that do not change the pixels of a single image.
_IGNORED = re.compile(
    r"(image_processor|feature_extractor|processor)_(type|class)|_?valid_(processor|kwargs)\w*|_processor_class|format|"
    r"annotation_format|do_convert_annotations|do_pad|pad_and_return_pixel_mask|data_format|input_data_format|device|"
    r"return_tensors|disable_grouping|default_to_square|model_input_names|name_or_path|_name_or_path|"
    r"do_convert_rgb|image_seq_length|transformers_version|max_size"
)


def processor_rules(settings: Mapping[str, Any], file: str, family: str) -> dict[str, Any]:
    """Preprocessing rules of a transformers image processor for "clip" or "grounding_dino".

    The keys are fields of `server.contract.manifest.Preprocessing`. UnknownCheckpoint names the file and an entry that
    cannot be obeyed.
    """
    reader = _Reader(file, longest=1333 if family == "grounding_dino" else None)
    defaults = reader.defaults(settings, PROCESSORS[family])
    given = defaults | {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        if name not in (*defaults, "crop_size") and value and not _IGNORED.fullmatch(name):
            raise reader.refusal(name, value, "it is not known, and may change the pixels")
    if not given["do_resize"]:
        raise reader.refusal("do_resize", False, "images of any size are resized")
    rules = reader.resize(given["size"], settings.get("max_size"))
    rules["resample"] = reader.resample("resample", given["resample"])
    if given["do_center_crop"]:
        rules |= reader.crop(given.get("crop_size", 224), rules)
    scale = reader.number("rescale_factor", given["rescale_factor"]) if given["do_rescale"] else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if given["do_normalize"]:
        mean, std = reader.triple("image_mean", given["image_mean"]), reader.triple("image_std", given["image_std"])
    # The value that the official code divides by 255 for: JSON files have it in several precisions.
    scale = 1 / 255 if math.isclose(scale, 1 / 255, rel_tol=1e-6) else scale
    return rules | {"scale": scale, "mean": mean, "std": reader.positive("image_std", std), "channels": "rgb"}


def open_clip_rules(settings: Mapping[str, Any], file: str, image_size: int) -> dict[str, Any]:
    """Preprocessing rules of open_clip's `preprocess_cfg` for a model of this image size; as `processor_rules`."""
    reader = _Reader(file)
    known = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
    for name, value in settings.items():
        if name not in known and value:
            raise reader.refusal(name, value, "it is not known, and may change the pixels")
    if settings.get("mode", "RGB") != "RGB":
        raise reader.refusal("mode", settings["mode"], "accepted is 'RGB'")
    size = settings.get("size") or image_size
    side = reader.side("size", size[-2:] if isinstance(size, list) else size)
    modes = {"shortest": "shorter_crop", "squash": "square"}
    mode = settings.get("resize_mode") or "shortest"
    if mode not in modes:
        raise reader.refusal("resize_mode", mode, f"accepted are {', '.join(modes)}")
    return {
        "resize": modes[mode],
        "shorter": side,
        "resample": reader.resample("interpolation", settings.get("interpolation") or "bicubic"),
        "scale": 1 / 255,
        "mean": reader.triple("mean", settings.get("mean") or CLIP_MEAN),
        "std": reader.positive("std", reader.triple("std", settings.get("std") or CLIP_STD)),
        "channels": "rgb",
    }


class _Reader:
    """Reads entries of one file, which its refusals name."""

    def __init__(self, file: str, *, longest: int | None = None) -> None:
        self._file, self._longest = file, longest

    def refusal(self, name: str, value: Any, reason: str) -> UnknownCheckpoint:
        shown = str(value)[:80] if not isinstance(value, str) else repr(value[:80])
        return UnknownCheckpoint(f"{self._file} has {name} {shown}, which cannot be obeyed: {reason}")

    def defaults(self, settings: Mapping[str, Any], known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        stated = settings.get("image_processor_type") or settings.get("feature_extractor_type")
        if stated is None:
            return next(iter(known.values()))
        name = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(stated))
        if name not in known:
            endings = ", ".join(f"{kind}ImageProcessor" for kind in known)
            raise self.refusal("image_processor_type", stated, f"accepted are {endings}")
        return known[name]

    def resize(self, size: Any, max_size: Any) -> dict[str, Any]:
        if isinstance(size, Mapping):
            names = {name for name, value in size.items() if value is not None}
            if names == {"shortest_edge"}:
                return {"resize": "shorter_crop", "shorter": self.side("size", size["shortest_edge"])}
            if names == {"shortest_edge", "longest_edge"}:
                shorter, longer = (self.side("size", size[name]) for name in ("shortest_edge", "longest_edge"))
                return {"resize": "shorter_longer", "shorter": shorter, "longer": longer}
            if names == {"height", "width"}:
                return {"resize": "square", "shorter": self.side("size", [size["height"], size["width"]])}
            raise self.refusal(
                "size", dict(size), "accepted are shortest_edge, with longest_edge or not; height and width"
            )
        if isinstance(size, list | tuple):
            return {"resize": "square", "shorter": self.side("size", size)}
        shorter, longest = self.side("size", size), max_size if max_size is not None else self._longest
        if longest is None:
            return {"resize": "shorter_crop", "shorter": shorter}
        return {"resize": "shorter_longer", "shorter": shorter, "longer": self.side("max_size", longest)}

    def crop(self, size: Any, rules: Mapping[str, Any]) -> dict[str, Any]:
        both = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
        if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
            both = size["shortest_edge"]
        side = self.side("crop_size", both)
        if rules["resize"] == "shorter_longer" or side > rules["shorter"]:
            raise self.refusal("crop_size", size, f"it is cut from an image resized to {rules['shorter']}")
        return {} if side == rules["shorter"] else {"crop": side}

    def side(self, name: str, value: Any) -> int:
        values = list(value) if isinstance(value, list | tuple) else [value]
        if (len(values) == 2 and values[0] == values[1]) or len(values) == 1:
            number = values[0]
            if type(number) in (int, float) and 1 <= number <= 4096 and number == int(number):
                return int(number)
        raise self.refusal(name, value, "a whole number of pixels is expected, or two equal ones")

    def resample(self, name: str, value: Any) -> str:
        words = str(value).lower().rpartition(".")[2]
        if isinstance(value, int) and not isinstance(value, bool) and value in _RESAMPLE:
            return _RESAMPLE[value]
        if isinstance(value, str) and words in _RESAMPLE.values():
            return words
        raise self.refusal(name, value, f"accepted are {_RESAMPLE}")

    def number(self, name: str, value: Any) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
            return float(value)
        raise self.refusal(name, value, "a positive number is expected")

    def triple(self, name: str, value: Any) -> tuple[float, float, float]:
        values = list(value) if isinstance(value, list | tuple) else [value] * 3
        if len(values) == 3 and all(type(v) in (int, float) and math.isfinite(v) for v in values):
            return float(values[0]), float(values[1]), float(values[2])
        raise self.refusal(name, value, "three numbers are expected")

    def positive(self, name: str, values: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(values) > 0:
            return values
        raise self.refusal(name, values, "positive numbers are expected")
