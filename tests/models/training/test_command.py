import json
from pathlib import Path

import pytest
import torch

from models import registry
from models.clip.model import Clip
from models.glip.model import Glip
from models.grounding_dino.model import GroundingDino
from models.training.recipe import CONFIGS
from models.training.sprites import SMALL_PACK
from server.__main__ import main

SMALLER = (
    ("batch = 128", "batch = 4\nvalidation_pictures = 3"),
    ("batch = 16", "batch = 2\nvalidation_pictures = 1"),
    ("width = 20", "width = 8"),
    ("shorter = 128", "shorter = 64"),
    ("longer = 208", "longer = 96"),
)


def small_recipe(folder: Path, name: str) -> Path:
    text = (CONFIGS / f"{name}.toml").read_text()
    for old, new in SMALLER:
        text = text.replace(old, new)
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def train(*words: str) -> int:
    return main(["train", *words, "--threads", "1"])


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    assert train(str(small_recipe(folder, "clip-mini")), "--out", str(folder / "run"), "--steps", "2") == 0
    return folder / "run"


def test_a_trained_clip_is_a_checkpoint_that_loads(clip_run: Path):
    loaded = registry.load(clip_run / "checkpoint")
    assert (loaded.family, loaded.variant) == ("clip", "clip-mini")
    assert isinstance(loaded.model, Clip)
    assert loaded.model.encode_image(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_a_checkpoint_says_that_it_is_served_as_it_was_trained(clip_run: Path):
    serving = registry.load(clip_run / "checkpoint").serving
    assert serving["preprocessing"]["shorter"] == 64
    assert serving["preprocessing"]["resample"] == "bicubic"


def test_a_run_leaves_its_curve(clip_run: Path):
    rows = [json.loads(line) for line in (clip_run / "curve.jsonl").read_text().splitlines()]
    assert 0 <= rows[-2]["validation_top1"] <= 1
    assert rows[-1]["logit_scale"] >= 1


def test_a_resumed_run_goes_on(clip_run: Path, tmp_path: Path):
    recipe = small_recipe(tmp_path, "clip-mini")
    assert train(str(recipe), "--out", str(clip_run), "--steps", "3", "--resume") == 0
    assert json.loads((clip_run / "curve.jsonl").read_text().splitlines()[-1])["step"] == 3


@pytest.fixture(scope="module")
def dino_run(clip_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    recipe, start = str(small_recipe(folder, "grounding-dino-mini")), str(clip_run / "checkpoint")
    assert train(recipe, "--out", str(folder / "run"), "--start", start, "--steps", "1") == 0
    return folder / "run"


def test_a_grounding_dino_starts_from_a_trained_clip(clip_run: Path, dino_run: Path):
    detector, clip = registry.load(dino_run / "checkpoint"), registry.load(clip_run / "checkpoint")
    assert isinstance(detector.model, GroundingDino)
    # The stem is among what the recipe freezes, so it is still the tower's.
    name = "stem.0.weight"
    theirs = clip.model.get_parameter(f"image_tower.backbone.{name}")
    assert torch.equal(detector.model.get_parameter(f"backbone.resnet.{name}"), theirs)
    assert detector.tokenizer_file.read_text() == clip.tokenizer_file.read_text()
    assert detector.serving["detection"]["nms_iou"] == 0.5
    assert detector.serving["buckets"]["pixel_multiple"] == 32


def test_a_glip_starts_from_a_trained_grounding_dino(dino_run: Path, tmp_path: Path):
    recipe, out = small_recipe(tmp_path, "glip-mini"), tmp_path / "run"
    assert train(str(recipe), "--out", str(out), "--start", str(dino_run / "checkpoint"), "--steps", "1") == 0
    glip, dino = registry.load(out / "checkpoint"), registry.load(dino_run / "checkpoint")
    assert isinstance(glip.model, Glip)
    name = "backbone.resnet.stem.0.weight"  # frozen, see above
    assert torch.equal(glip.model.get_parameter(name), dino.model.get_parameter(name))
    words = (model.get_parameter("text_backbone.embeddings.words.weight") for model in (glip.model, dino.model))
    torch.testing.assert_close(*words, atol=0.01, rtol=0)  # one step of training further
    assert glip.tokenizer_file.read_text() == dino.tokenizer_file.read_text()
    assert glip.serving["detection"]["box_threshold"] == 0.45


def test_a_start_of_another_family_is_refused(clip_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = small_recipe(tmp_path, "glip-mini")
    assert train(str(recipe), "--out", str(tmp_path / "run"), "--start", str(clip_run / "checkpoint")) == 2
    assert "is a clip; a trained grounding_dino is expected" in capsys.readouterr().err


def test_an_unknown_family_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "bad.toml"
    file.write_text((CONFIGS / "clip-mini.toml").read_text().replace('family = "clip"', 'family = "yolo"'))
    assert train(str(file), "--out", str(tmp_path), "--sprites", str(SMALL_PACK)) == 2
    assert "'yolo'; trained are ['clip'" in capsys.readouterr().err
