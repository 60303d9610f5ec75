"""Preprocessed pixels against those of the official code, through the contract that serves."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from server.contract.image import preprocess, resized_size
from server.contract.manifest import Preprocessing
from tests.parity import golden

CLIP = Preprocessing(
    resize="shorter_crop",
    shorter=224,
    resample="bicubic",
    rgb_after_resize=True,
    mean=golden.recipe.CLIP_MEAN,
    std=golden.recipe.CLIP_STD,
)
GROUNDING_DINO = Preprocessing(
    resize="shorter_longer", shorter=800, longer=1333, mean=golden.recipe.DINO_MEAN, std=golden.recipe.DINO_STD
)
RULES = {"clip224": CLIP, "gdino": GROUNDING_DINO}
# The resize is bit-exact with Pillow's, so that only float32 rounding is left.
TOLERANCE = 1e-5

with np.load(golden.FOLDER / "preprocess.npz") as _file:
    DATA = {key: _file[key] for key in _file.files}
NAMES = [key.removeprefix("file.") for key in DATA if key.startswith("file.")]
SIZES = json.loads((golden.FOLDER / "resize_sizes.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_pixels_equal_the_official_ones(name: str, rules: str) -> None:
    image = Image.open(io.BytesIO(DATA[f"file.{name}"].tobytes()))
    decoded = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
    if decoded != str(DATA[f"{name}.decoded_rgb_sha256"]):
        pytest.skip(f"this machine decodes {name} to other pixels than the reference's")
    pixels = preprocess(image, RULES[rules])
    key = f"{name}.{rules}"
    assert pixels.shape == tuple(DATA[f"{key}__shape"])
    sample = pixels.ravel()[:: int(DATA[f"{key}__step"])]
    np.testing.assert_allclose(sample, DATA[f"{key}__sample"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("row", SIZES, ids=lambda row: f"{row[0][0]}x{row[0][1]}")
def test_resized_sizes_equal_the_official_ones(row: list[list[int]]) -> None:
    (width, height), clip, grounding_dino, _ = row
    assert resized_size(height, width, CLIP) == tuple(reversed(clip))
    assert resized_size(height, width, GROUNDING_DINO) == tuple(reversed(grounding_dino))
