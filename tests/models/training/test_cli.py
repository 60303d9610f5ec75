import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import registry
from models.clip.model import Clip
from models.glip.model import Glip
from models.grounding_dino.model import GroundingDino
from models.training.cli import default_threads
from models.training.distillation import BERT, CLIP_TEXT, TOKENIZER
from models.training.recipe import CONFIGS
from server.__main__ import main
from tests.models.data import annotated_sets as sets
from tests.models.training.small_recipes import checkpoint
from tests.models.training.small_words import write_small_words

SMALLER = (
    ("batch = 128", "batch = 4"),
    ("block = 128", "block = 4"),
    ("validation_batches = 3", "validation_batches = 1"),
    ("batch = 16", "batch = 2"),
    ("validation_batches = 10", "validation_batches = 1"),
    ("small = 0.6", "small = 0.6\nblock = 2"),
    ("width = 24", "width = 8"),
    ("shorter = 160", "shorter = 64"),
    ("longer = 256", "longer = 96"),
)
WITHOUT_WORDS = ('"text_backbone.", ', "")


def small_recipe(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    text = (CONFIGS / f"{name}.toml").read_text()
    for old, new in (*SMALLER, *changes):
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
    recipe, start = str(small_recipe(folder, "grounding-dino-mini", WITHOUT_WORDS)), str(clip_run / "checkpoint")
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
    recipe, out = small_recipe(tmp_path, "glip-mini", WITHOUT_WORDS), tmp_path / "run"
    assert train(str(recipe), "--out", str(out), "--start", str(dino_run / "checkpoint"), "--steps", "1") == 0
    glip, dino = registry.load(out / "checkpoint"), registry.load(dino_run / "checkpoint")
    assert isinstance(glip.model, Glip)
    name = "backbone.resnet.stem.0.weight"  # frozen, see above
    assert torch.equal(glip.model.get_parameter(name), dino.model.get_parameter(name))
    words = (model.get_parameter("text_backbone.embeddings.words.weight") for model in (glip.model, dino.model))
    torch.testing.assert_close(*words, atol=0.01, rtol=0)  # one step of training further
    assert glip.tokenizer_file.read_text() == dino.tokenizer_file.read_text()
    assert glip.serving["detection"]["box_threshold"] == 0.45


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_words(tmp_path_factory.mktemp("words"))


def test_a_clip_ends_with_the_text_tower_that_was_distilled(words: Path, tmp_path: Path):
    recipe = str(small_recipe(tmp_path, "clip-mini"))
    assert train(recipe, "--out", str(tmp_path / "run"), "--words", str(words), "--steps", "2") == 0
    loaded = registry.load(tmp_path / "run" / "checkpoint")
    assert isinstance(loaded.model, Clip)
    stored = load_file(words / CLIP_TEXT)
    assert all(torch.equal(value, stored[name]) for name, value in loaded.model.text_tower.state_dict().items())
    assert loaded.tokenizer_file.read_text() == (words / TOKENIZER).read_text()
    assert "MiniLM" in loaded.source


@pytest.mark.parametrize("name", ["grounding-dino-mini", "glip-mini"])
def test_a_detector_keeps_the_words_that_were_distilled(name: str, words: Path, clip_run: Path, tmp_path: Path):
    recipe, out = str(small_recipe(tmp_path, name)), tmp_path / "run"
    start = ("--start", str(clip_run / "checkpoint"), "--words", str(words))
    assert train(recipe, "--out", str(out), *start, "--steps", "1") == 0
    loaded, clip = registry.load(out / "checkpoint"), registry.load(clip_run / "checkpoint")
    stored = load_file(words / BERT)
    assert all(torch.equal(loaded.model.get_parameter(f"text_backbone.{key}"), value) for key, value in stored.items())
    stem = clip.model.get_parameter("image_tower.backbone.stem.0.weight")
    assert torch.equal(loaded.model.get_parameter("backbone.resnet.stem.0.weight"), stem)
    if name == "glip-mini":
        assert loaded.serving["text"] == {"attention": "label", "max_tokens": 256, "max_label_tokens": 64}


@pytest.mark.parametrize("name", ["grounding-dino-mini", "glip-mini"])
def test_words_that_stay_as_they_are_must_be_given(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = str(small_recipe(tmp_path, name))
    assert train(recipe, "--out", str(tmp_path / "run"), "--steps", "1") == 2
    assert "give --words" in capsys.readouterr().err


def test_a_start_of_another_family_is_refused(clip_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = small_recipe(tmp_path, "glip-mini")
    assert train(str(recipe), "--out", str(tmp_path / "run"), "--start", str(clip_run / "checkpoint")) == 2
    assert "is a clip; a trained grounding_dino is expected" in capsys.readouterr().err


def test_an_unknown_family_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "bad.toml"
    file.write_text((CONFIGS / "clip-mini.toml").read_text().replace('family = "clip"', 'family = "yolo"'))
    assert train(str(file), "--out", str(tmp_path)) == 2
    assert "bad.toml: family is 'yolo'; accepted are 'clip'" in capsys.readouterr().err


def test_scenes_show_the_names_that_a_flag_gives(tmp_path: Path):
    (tmp_path / "names.txt").write_text("dog: dog\ncat: cat\n")
    recipe, out = str(small_recipe(tmp_path, "clip-mini")), tmp_path / "run"
    assert train(recipe, "--out", str(out), "--names", str(tmp_path / "names.txt"), "--steps", "1") == 0
    vocabulary = json.loads((out / "checkpoint" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"dog", "cat"} <= vocabulary.keys()
    assert "elephant" not in vocabulary


RECIPE = """
family = "glip"
name = "squares"
start = "checkpoints/glip"

[loop]
steps = 1
learning_rate = 1e-3
warmup_steps = 0
tensorboard = false

[data]
batch = 6
workers = 0

[[data.sets]]
format = "coco"
annotations = "coco.json"
pictures = "pictures"
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [None] * 4}, r"coco.json: annotation id 0: bbox is [None, None, None, None]; four finite numbers"),
        (
            {"bbox": [200, 0, 9, 9]},
            r"coco.json: annotation id 0: bbox is x0 200, y0 0, x1 209, y1 9, outside the picture",
        ),
        ({"image_id": 7}, "coco.json: annotation id 0: its image id 7 is not among the images"),
    ],
)
def test_a_faulty_record_stops_a_run_or_is_left_out(
    tmp_path: Path, change: dict, message: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    data = sets.coco(tmp_path)
    data["annotations"][0] |= change
    sets.rewrite(tmp_path, data)
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    checkpoint("glip", tmp_path / "checkpoints")
    (tmp_path / "refuse.toml").write_text(RECIPE)
    assert train(str(tmp_path / "refuse.toml"), "--out", str(tmp_path / "one")) == 2
    assert message in capsys.readouterr().err
    (tmp_path / "skip.toml").write_text(RECIPE + 'faulty = "skip"\n')
    assert train(str(tmp_path / "skip.toml"), "--out", str(tmp_path / "two")) == 0
    assert f"1 faulty entries are left out (annotation {next(iter(change))} 1)" in caplog.text
    assert "left out in all: 1 (picture 1)" in caplog.text


def test_threads_are_the_cpus_that_nobody_else_keeps_busy(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("models.training.cli.available_cpus", lambda: 8)
    for busy, workers, threads in [(0.2, 0, 8), (0.2, 2, 6), (3.4, 2, 3), (20.0, 0, 1)]:
        monkeypatch.setattr("os.getloadavg", lambda busy=busy: (busy, 0.0, 0.0))
        assert default_threads(workers) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_threads(0) is None
