"""From a recipe with data sets to a task, for each family: from a checkpoint of any published form, or from scratch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import tokenizers
from models.clip.model import Clip
from models.config_io import from_json
from models.data.augmentation import DetectorAugmentation, SquareAugmentation
from models.data.collate import DetectionExamples, PairExamples, Together, paired
from models.data.datasets import open_sets
from models.data.grounding_prompts import Prompter, PromptingConfig
from models.data.loader import Batches, Layout
from models.grounding_dino.model import GroundingDino
from models.losses.glip_loss import AlignmentLossConfig
from models.losses.grounding_dino_loss import DetectorLossConfig
from models.losses.matcher import MatchCost
from models.registry import FAMILIES, LoadedCheckpoint, load
from models.synthetic.synthetic_tasks import Prepared
from models.training.contrastive_task import ContrastiveTask
from models.training.dataset_task import Data
from models.training.denoising import DenoisingConfig, LabelQueries
from models.training.detectors import Detector, GlipDetector, GroundingDinoDetector
from models.training.distributed import Processes
from models.training.grounding_task import GroundingTask
from models.training.loop import Task
from models.training.param_groups import freeze
from models.training.recipe import Recipe, RecipeError, filled
from server.contract.manifest import Preprocessing
from server.contract.text import PromptTokenizer, SentenceTokenizer

DATA = {
    "batch",
    "workers",
    "sets",
    "validation",
    "validation_batches",
    "preprocessing",
    "buckets",
    "rules",
    "augmentation",
    "prompts",
    "denoising",
    "tokenizer",
}
CANVAS = 32  # pixels: the coarsest backbone stage; a batch's sides are multiples of it


def prepare_annotated(recipe: Recipe, *, start: Path | None, processes: Processes) -> Prepared:
    """The task of a recipe with data sets; RecipeError or DataError names what is wrong."""
    if unknown := sorted(recipe.data.keys() - DATA):
        raise RecipeError(f"data has no {unknown}; it has {sorted(DATA)}")
    checkpoint = None if start is None else _start(start, recipe)
    model, config, tokenizer = _fresh(recipe) if checkpoint is None else _loaded(checkpoint, recipe)
    frozen = freeze(model, recipe.loop.frozen)
    model = model.to(processes.device)
    serving = {} if checkpoint is None else dict(checkpoint.serving)
    preprocessing = _preprocessing(recipe, serving, FAMILIES[recipe.family].serving(model, tokenizer).preprocessing)
    build = _clip_task if isinstance(model, Clip) else _detector_task
    task = build(recipe, model, config, tokenizer, preprocessing, processes, frozen)
    source = "data sets of the recipe" if checkpoint is None else f"data sets of the recipe, from {checkpoint.source}"
    licence = "Apache-2.0" if checkpoint is None else checkpoint.licence
    return Prepared(task, config, tokenizer, recipe, source=source, licence=licence, serving=serving)


def _clip_task(
    recipe: Recipe,
    model: nn.Module,
    config: Any,
    tokenizer: Path,
    preprocessing: Preprocessing,
    processes: Processes,
    frozen: list[nn.Module],
) -> Task:
    assert isinstance(model, Clip)
    if unknown := sorted(recipe.data.keys() & {"prompts", "denoising", "rules"} or recipe.loss.keys()):
        raise RecipeError(f"a CLIP has no {unknown} to set")
    texts = SentenceTokenizer(tokenizer, FAMILIES[recipe.family].serving(model, tokenizer).text)
    augmentation = filled(SquareAugmentation, recipe.data.get("augmentation", {}))

    def examples(training: bool) -> PairExamples:
        return PairExamples(texts, preprocessing, augmentation if training else None)

    return ContrastiveTask(model, _data(recipe, examples, paired, processes), processes, frozen)


def _detector_task(
    recipe: Recipe,
    model: nn.Module,
    config: Any,
    tokenizer: Path,
    preprocessing: Preprocessing,
    processes: Processes,
    frozen: list[nn.Module],
) -> Task:
    rules = FAMILIES[recipe.family].serving(model, tokenizer).text
    prompts = filled(PromptingConfig, recipe.data.get("prompts", {}))
    prompter = Prompter(PromptTokenizer(tokenizer, rules), rules.max_tokens, prompts)
    table = dict(recipe.data.get("augmentation", {}))
    augmentation = filled(DetectorAugmentation, {**table, "shorter": tuple(table.get("shorter", ()))})
    detector, denoising = _detector(recipe, model)
    queries = None
    if denoising is not None:
        queries = LabelQueries(config.d_model).to(processes.device)

    def examples(training: bool) -> DetectionExamples:
        changes = (augmentation, denoising) if training else (None, None)
        return DetectionExamples(prompter, preprocessing, *changes)

    data = _data(recipe, examples, Together(CANVAS), processes)
    return GroundingTask(model, detector, queries, data, processes, frozen)


def _detector(recipe: Recipe, model: nn.Module) -> tuple[Detector, DenoisingConfig | None]:
    if not isinstance(model, GroundingDino):
        if "denoising" in recipe.data:
            raise RecipeError("a GLIP has no queries to denoise")
        return GlipDetector(filled(AlignmentLossConfig, recipe.loss)), None
    denoising = filled(DenoisingConfig, recipe.data.get("denoising", {}))
    loss = dict(recipe.loss)
    if "cost" in loss:
        loss["cost"] = filled(MatchCost, loss["cost"])
    return GroundingDinoDetector(filled(DetectorLossConfig, loss)), denoising if denoising.queries else None


def _data(recipe: Recipe, examples: Callable[[bool], Any], collate: Callable[[Any], Any], processes: Processes) -> Any:
    """The recipe's batches: `examples(True)` makes examples to learn from, `examples(False)` those to validate with."""
    table = recipe.data
    if "batch" not in table:
        raise RecipeError("data is incomplete: it needs batch, the pictures of a batch in each process")
    layout = Layout(table["batch"], table.get("workers", 2), processes.count)
    sets, make = open_sets(table["sets"], recipe.folder), examples(True)

    def training(first: int) -> Batches[Any, Any]:
        return Batches(sets, make, collate, layout, seed=recipe.seed, first=first, rank=processes.rank)

    held_out = None
    if "validation" in table:
        held_sets = open_sets(table["validation"], recipe.folder)
        held_out = Batches(held_sets, examples(False), collate, Layout(layout.batch, 0), seed=recipe.seed)
    return Data(layout, training, held_out, table.get("validation_batches", 8))


def _start(path: Path, recipe: Recipe) -> LoadedCheckpoint:
    checkpoint = load(path)
    if checkpoint.family != recipe.family:
        raise RecipeError(f"--start {path} is a {checkpoint.family}; the recipe trains a {recipe.family}")
    if recipe.model:
        raise RecipeError(f"the recipe's [model] and --start {path} exclude each other: its sizes are the checkpoint's")
    return checkpoint


def _loaded(checkpoint: LoadedCheckpoint, recipe: Recipe) -> tuple[nn.Module, Any, Path]:
    if "tokenizer" in recipe.data:
        raise RecipeError("data.tokenizer and --start exclude each other: the tokenizer is the checkpoint's")
    return checkpoint.model, checkpoint.config, checkpoint.tokenizer_file


def _fresh(recipe: Recipe) -> tuple[nn.Module, Any, Path]:
    if not recipe.model:
        raise RecipeError("the recipe has no [model]: give it, or a checkpoint with --start")
    family = FAMILIES[recipe.family]
    if "tokenizer" in recipe.data:
        tokenizer = recipe.folder / recipe.data["tokenizer"]
        if not tokenizer.is_file():
            raise RecipeError(f"data.tokenizer: {tokenizer} does not exist")
    else:
        tokenizer = tokenizers.standard_file(family.vocabulary)
    table = {
        **recipe.model,
        "text": {**recipe.model.get("text", {}), "vocab_size": tokenizers.vocabulary_size(tokenizer)},
    }
    config = from_json(family.config, table)
    torch.manual_seed(recipe.seed)
    return family.model(config), config, tokenizer


def _preprocessing(recipe: Recipe, serving: Mapping[str, Any], default: Preprocessing) -> Preprocessing:
    table = recipe.data.get("preprocessing", serving.get("preprocessing"))
    return default if table is None else Preprocessing.model_validate(table)
