"""`openset train --start` from the shell: official containers in, a certified bundle out; killed, and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.bundle import export_bundle
from models import registry
from models.clip import config as clip_configs
from models.clip.config import ClipConfig, TextConfig, VisionTransformerConfig
from models.clip.description import OPENAI_SCALARS
from models.clip.model import Clip
from models.glip import config as glip_configs
from models.glip.model import Glip
from models.grounding_dino import config as dino_configs
from models.grounding_dino.model import GroundingDino
from models.layers.bert import BertConfig
from models.training.run_logger import CURVE
from server.__main__ import main
from server.contract.manifest import read_manifest
from tests.models import small_clip, small_glip, small_grounding_dino
from tests.models.data import annotated_sets as sets
from tests.models.grounding_dino.test_weights import stored
from tests.models.shaking import shaken
from tests.models.training.small_recipes import FAMILIES, checkpoint, write_sets
from tests.parity import containers, golden

ROOT = Path(__file__).parents[3]
LOOP = """
seed = 0
[loop]
steps = 2
learning_rate = 1e-4
warmup_steps = 1
layer_decay = 0.8
log_every = 1
[data]
batch = 2
workers = 1
"""
SIZE = """
[data.preprocessing]
resize = "shorter_longer"
shorter = 64
longer = 96
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""
ODVG = """
[[data.sets]]
format = "odvg"
annotations = "odvg/odvg.jsonl"
pictures = "odvg/pictures"
label_map = "odvg/labels.json"
"""
SHARDS = """
[[data.sets]]
format = "shards"
shards = "shards/{000..002}.tar"
weight = 1
buffer = 4
"""
SCENES = """
[[data.sets]]
format = "scenes"
single = true
block = 4
"""
FROZEN = {"clip": "text_tower.", "glip": "text_backbone.", "grounding_dino": "text_backbone."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    write_sets(folder)
    return folder


def write_recipe(folder: Path, family: str, *, scenes: bool = False, **changes: str) -> Path:
    loop = LOOP.replace("[data]", f'frozen = ["{FROZEN[family]}"]\n[data]')
    for name, value in changes.items():
        loop = loop.replace(f"{name} = ", f"{name} = {value} # ")
    text = f'family = "{family}"\nname = "{family}-tuned"\n' + loop
    text += SCENES if scenes else SHARDS if family == "clip" else SIZE + ODVG
    file = folder / f"{family}-{len(list(folder.iterdir()))}.toml"
    file.write_text(text)
    return file


def official(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model of the family as its authors publish theirs, known to the loader as a size called "small"."""
    if family == "clip":
        size = ClipConfig(16, VisionTransformerConfig(32, 8, 64, 2, 1), TextConfig(64, 1, 1))
        monkeypatch.setitem(clip_configs.CLIP_CONFIGS, "small", size)
        torch.manual_seed(0)
        tensors = small_clip.openai_tensors(shaken(Clip(size)))
        tensors |= {name: torch.tensor(32) for name in OPENAI_SCALARS}
    elif family == "glip":
        text = BertConfig(width=24, layers=1, heads=2, hidden=40)
        size = replace(small_glip.SWIN, text=text, tower_layers=1, candidates_per_level=100)
        monkeypatch.setitem(glip_configs.GLIP_CONFIGS, "small", size)
        torch.manual_seed(0)
        tensors = small_glip.microsoft_tensors(shaken(Glip(size)))
    else:
        text = BertConfig(width=32, layers=1, heads=2, hidden=48)
        size = replace(small_grounding_dino.SWIN, text=text, encoder_layers=1, decoder_layers=1)
        monkeypatch.setitem(dino_configs.GROUNDING_DINO_CONFIGS, "small", size)
        torch.manual_seed(0)
        tensors = stored(shaken(GroundingDino(size)), "idea", size)
    file = folder / f"{family}.pth"
    torch.save({"model": {f"module.{name}": value for name, value in tensors.items()}}, file)
    return file


@pytest.mark.parametrize("family", FAMILIES)
def test_an_official_checkpoint_is_tuned_and_becomes_a_certified_bundle(
    family: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start, out = official(family, tmp_path, monkeypatch), tmp_path / "run"
    recipe = write_recipe(folder, family)
    recipe.write_text(f'start = "{start}"\n' + recipe.read_text())
    arguments = ["train", str(recipe), "--out", str(out)]
    assert main([*arguments, "--threads", "1"]) == 0
    before, after = registry.load(start), registry.load(out / "checkpoint")
    assert (after.family, after.variant, after.licence) == (family, f"{family}-tuned", before.licence)
    assert start.name in after.source
    changed = [
        name
        for name, value in after.model.state_dict().items()
        if not torch.equal(value, before.model.state_dict()[name])
    ]
    assert changed
    assert not [name for name in changed if name.startswith(FROZEN[family])]
    assert after.tokenizer_file.read_bytes() == before.tokenizer_file.read_bytes()
    manifest = export_bundle(out / "checkpoint", tmp_path / "bundle")
    assert all(artefact.certificate is not None for artefact in manifest.artefacts)
    if family != "clip":
        assert read_manifest(tmp_path / "bundle").preprocessing.shorter == 64
    assert main(arguments) == 2  # a run is not begun anew over another


def train(recipe: Path, start: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "server", "train", str(recipe), "--start", str(start), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *more], cwd=ROOT, env=environment, start_new_session=True, stdout=log, stderr=log
        )


def curve(out: Path) -> list[dict[str, float]]:
    file = out / CURVE
    found = (
        [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")] if file.exists() else []
    )
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in found]


@pytest.mark.parametrize(
    "scenes", [pytest.param(False, id="shards"), pytest.param(True, id="scenes", marks=pytest.mark.slow)]
)
def test_a_killed_run_is_resumed_to_the_same_curve_and_weights(scenes: bool, folder: Path, tmp_path: Path):
    start = checkpoint("clip", folder / "checkpoints")
    recipe = write_recipe(folder, "clip", scenes=scenes, steps="40")
    recipe.write_text(
        recipe.read_text().replace("[loop]", '[loop]\nsave_every = 10\nvalidate_every = 50\nprecision = "fp16"')
    )
    unbroken = train(recipe, start, tmp_path / "unbroken")
    assert unbroken.wait(900) == 0
    killed = train(recipe, start, tmp_path / "killed")
    deadline = time.monotonic() + 900
    while len(curve(tmp_path / "killed")) < 12:
        assert killed.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    reached = curve(tmp_path / "killed")[-1]["step"]
    assert 12 <= reached < 40
    assert train(recipe, start, tmp_path / "killed", "--resume").wait(900) == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "unbroken")
    first, second = (
        registry.load(tmp_path / name / "checkpoint").model.state_dict() for name in ("unbroken", "killed")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert list((tmp_path / "killed" / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_the_published_vit_b_32_is_tuned_and_becomes_a_certified_bundle(folder: Path, tmp_path: Path):
    start = containers.write_openai_archive(tmp_path / "ViT-B-32.pt", golden.synthesise("openai_clip_ViT-B-32"))
    out = tmp_path / "run"
    assert main(["train", str(write_recipe(folder, "clip")), "--start", str(start), "--out", str(out)]) == 0
    assert main(["export", "--checkpoint", str(out / "checkpoint"), "--out", str(tmp_path / "bundle"), "--quiet"]) == 0


def test_a_faulty_set_ends_the_command_with_a_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    start, recipe = checkpoint("glip", folder / "checkpoints"), write_recipe(folder, "glip")
    lines = sets.odvg(tmp_path / "odvg")
    lines[2]["detection"]["instances"][0]["label"] = 77
    sets.write_lines(tmp_path / "odvg" / "odvg.jsonl", lines)
    moved = tmp_path / "glip.toml"
    moved.write_text(recipe.read_text())
    assert main(["train", str(moved), "--start", str(start), "--out", str(tmp_path / "run")]) == 2
    assert "odvg.jsonl, line 3: label 77 is not in the label map" in capsys.readouterr().err
