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
from models.synthetic.scene_set import ScenesConfig
from models.tokenizers import small_wordpiece
from models.training.distributed import ALONE, ProcessGroup
from models.training.loop import LoopConfig, Trainer
from models.training.recipe import Recipe, parse_recipe
from models.training.tasks import prepare
from tests.models import small_glip, small_grounding_dino
from tests.models.data import annotated_sets as sets

FAMILIES = ("clip", "glip", "grounding_dino")
LOOP = LoopConfig(
    steps=4, learning_rate=1e-3, warmup_steps=2, log_every=1, validate_every=4, save_every=2, tensorboard=False
)
RULES = {"box_threshold": 0.3, "text_threshold": 0.2, "nms_iou": 0.5}
EASY = {"smallest": 0.4, "largest": 0.6, "most_objects": 2, "busy": 0.0, "degrade": 0.0}
SCENES = {"format": "scenes", "block": 2, "full": EASY, "easy": EASY}


def checkpoint(family: str, folder: Path) -> Path:
    """A small model with random weights, of the given family."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [item.label for item in ScenesConfig(format="scenes").objects(Path())]
    words = [*sets.NAMES, "a", "and", "square", *(word for label in labels for word in label.split())]
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
    shapes = {"preprocessing": sets.SIZE.model_dump(mode="json"), "buckets": {"pixel_multiple": 32}}
    serving = {} if family == "clip" else shapes
    return registry.save(
        folder / family, model, config, tokenizer_file=folder / "tokenizer.json", name=family, serving=serving
    )


def write_sets(folder: Path) -> None:
    """Every kind of set, and a checkpoint of every family, in `folder`."""
    sets.coco(folder / "coco")
    sets.odvg(folder / "odvg")
    sets.captions(folder / "captions")
    sets.shards(folder / "shards")
    for family in FAMILIES:
        checkpoint(family, folder / "checkpoints")


def table(family: str, *, scenes: bool = False, loop: LoopConfig = LOOP, **data: Any) -> dict[str, Any]:
    """A recipe for one of the checkpoints on the sets beside it: two, mixed, or generated scenes."""
    captions = {"format": "captions", "path": "captions"}
    if scenes:
        found: dict[str, Any] = {"sets": [SCENES | {"single": family == "clip"}], "validation": [{"format": "scenes"}]}
    elif family == "clip":
        shards = {"format": "shards", "shards": "shards/*.tar", "weight": 2.0}
        found = {"sets": [captions | {"weight": 1.0}, shards], "validation": [captions]}
    else:
        coco = {"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"}
        odvg = {"format": "odvg", "annotations": "odvg/odvg.jsonl", "pictures": "odvg/pictures"}
        odvg["label_map"] = "odvg/labels.json"
        found = {"sets": [coco, odvg], "validation": [coco]}
        # Cropped pictures differ in size, and a batch's padding is seen by the backbones, as in the official code.
        found["augmentation"] = {"crop": 0.0}
    if family == "grounding_dino":
        found["denoising"] = {"queries": 10}
    found |= {"batch": 2, "workers": 0, "validation_batches": 1}
    start = f"checkpoints/{family}"
    return {"family": family, "name": family, "start": start, "loop": vars(loop), "data": {**found, **data}}


def recipe(family: str, folder: Path, **changes: Any) -> Recipe:
    """The same, read as from a file in `folder`."""
    return parse_recipe(table(family, **changes), folder)


def trainer(one: Recipe, out: Path, group: ProcessGroup = ALONE) -> Trainer:
    """A run that is ready to begin."""
    torch.manual_seed(one.seed)
    return Trainer(prepare(one, folder=out, group=group).task, one.loop, out, group)
