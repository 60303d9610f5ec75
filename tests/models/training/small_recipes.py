"""Recipes that train small models on the small data sets, and the checkpoints they start from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import registry
from models.clip.config import ClipConfig, TextConfig, VisionTransformerConfig
from models.clip.model import Clip
from models.glip.model import Glip
from models.grounding_dino.model import GroundingDino
from models.layers.bert import BertConfig
from models.tokenizers import small_wordpiece
from models.training.dataset_tasks import prepare_annotated
from models.training.distributed import Processes
from models.training.loop import LoopConfig, Trainer
from models.training.recipe import Recipe
from tests.models import small_glip, small_grounding_dino
from tests.models.data import annotated_sets as sets

FAMILIES = ("clip", "glip", "grounding_dino")
SIZE = {"resize": "shorter_longer", "shorter": 64, "longer": 96, "mean": [0.4, 0.4, 0.4], "std": [0.3, 0.3, 0.3]}
LOOP = LoopConfig(
    steps=4, learning_rate=1e-3, warmup_steps=2, log_every=1, validate_every=4, save_every=2, tensorboard=False
)


def checkpoint(family: str, folder: Path) -> Path:
    """A small model with random weights, of the given family."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*sets.NAMES, "a", "and", "square"]
    tokenizer = small_wordpiece(words)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    torch.manual_seed(0)
    model: nn.Module
    config: Any
    if family == "clip":
        config = ClipConfig(16, VisionTransformerConfig(32, 8, 32, 2, 2), TextConfig(32, 2, 2, size))
        model = Clip(config)
    elif family == "glip":
        text = BertConfig(vocab_size=size, width=24, layers=1, heads=2, hidden=40, max_positions=64)
        config = replace(small_glip.SWIN, text=text)
        model = Glip(config)
    else:
        text = BertConfig(vocab_size=size, width=32, layers=1, heads=2, hidden=48, max_positions=32)
        config = replace(small_grounding_dino.SWIN, text=text, logit_scale=0.125, logit_bias_init=-4.0)
        model = GroundingDino(config)
    serving = {} if family == "clip" else {"preprocessing": SIZE, "buckets": {"pixel_multiple": 32}}
    return registry.save(
        folder / family, model, config, tokenizer_file=folder / "tokenizer.json", name=family, serving=serving
    )


def write_sets(folder: Path) -> None:
    """Every kind of set, in `folder`."""
    sets.coco(folder / "coco")
    sets.odvg(folder / "odvg")
    sets.captions(folder / "captions")
    sets.shards(folder / "shards")


def recipe(family: str, folder: Path, *, loop: LoopConfig = LOOP, **data: Any) -> Recipe:
    """A recipe for one of the checkpoints on the sets in `folder`: two, mixed."""
    captions = {"format": "captions", "path": "captions"}
    if family == "clip":
        table = {
            "sets": [captions | {"weight": 1.0}, {"format": "shards", "shards": "shards/*.tar", "weight": 2.0}],
            "validation": [captions],
        }
    else:
        coco = {"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"}
        odvg = {"format": "odvg", "annotations": "odvg/odvg.jsonl", "pictures": "odvg/pictures"}
        odvg["label_map"] = "odvg/labels.json"
        table = {"sets": [coco, odvg], "validation": [coco]}
        # Cut pictures differ in size, and what a batch pads them to is seen by the backbones, as in the official code.
        table["augmentation"] = {"crop": 0.0}
    if family == "grounding_dino":
        table["denoising"] = {"queries": 10}
    table |= {"batch": 2, "workers": 0, "validation_batches": 1}
    return Recipe(family, f"{family}-small", 0, loop, {**table, **data}, folder=folder)


def trainer(one: Recipe, start: Path, out: Path, processes: Processes | None = None) -> Trainer:
    """A run that is ready to begin."""
    torch.manual_seed(one.seed)
    processes = processes or Processes()
    prepared = prepare_annotated(one, start=start, processes=processes)
    return Trainer(prepared.task, one.loop, out, processes)
