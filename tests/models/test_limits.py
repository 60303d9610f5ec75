"""Configurations of absurd sizes end before they are built."""

import json
import time

import pytest
import torch
from torch import nn

from models import CheckpointError, UnknownCheckpoint, registry, tokenizers
from models.limits import bounded_by
from tests.models.small_clip import VIT, random_model


def test_model_within_the_bound_is_built():
    with bounded_by(2):
        nn.Linear(2, 2)
    nn.ModuleList(nn.Linear(2, 2) for _ in range(3000))  # the bound has gone with its context


def test_model_beyond_the_bound_is_refused_as_soon_as_it_is():
    with pytest.raises(UnknownCheckpoint, match="asks for more than 1016 tensors, the weights have 2"), bounded_by(2):
        nn.ModuleList(nn.Linear(2, 2, device="meta") for _ in range(10**9))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["text"].update(layers=10**9),
        lambda config: config["image"].update(layers=10**9),
        lambda config: config["text"].update(width=10**15),
        lambda config: config["text"].update(vocab_size=10**18),
        lambda config: config["text"].update(heads=0),
        lambda config: config["image"].update(image_size=10**12),
        lambda config: config["image"].update(patch_size=0),
        lambda config: config.update(embed_dim=-1),
    ],
)
def test_checkpoint_of_ours_with_an_absurd_configuration_is_refused_at_once(tmp_path, change):
    tokenizers.small_wordpiece(["fox"]).save(str(tmp_path / "words.json"))
    folder = registry.save(tmp_path / "a", random_model(VIT), VIT, tokenizer_file=tmp_path / "words.json", name="a")
    header = json.loads((folder / "config.json").read_text())
    change(header["config"])
    (folder / "config.json").write_text(json.dumps(header))
    started = time.monotonic()
    with pytest.raises(CheckpointError):
        registry.load(folder)
    assert time.monotonic() - started < 20
    assert torch.get_default_device().type == "cpu"
