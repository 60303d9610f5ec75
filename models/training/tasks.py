"""From a recipe to a training task: a model that is continued, or a fresh one, and the batches it learns from."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import tokenizers
from models.checkpoints import read
from models.clip.model import Clip
from models.config_io import from_json
from models.data.categories import CategoryNames
from models.data.collate import DetectionCollator, DetectionTransform, ImageTextTransform, collate_image_text
from models.data.datasets import ClassesConfig, OpenContext, open_sets
from models.data.grounding_prompts import PromptConfig, PromptSampler
from models.data.loader import BatchLayout, BatchStream
from models.family import ServingRules
from models.glip.serving import MAX_TOKENS
from models.registry import FAMILIES, LoadedCheckpoint, load
from models.state_dict_map import as_torch
from models.synthetic.label_phrases import ObjectTexts, vocabulary_texts
from models.synthetic.photo_scene_set import PhotoScenesConfig
from models.synthetic.sprites import NamedObject
from models.training.class_texts import TemplateTexts
from models.training.contrastive_task import ClassTexts, ContrastiveTask
from models.training.dataset_task import TaskData
from models.training.denoising import LabelQueries, add_noise
from models.training.detection_task import DetectionTask
from models.training.detectors import DetectorAdapter, GlipAdapter, GroundingDinoAdapter
from models.training.distillation import DistilledWords
from models.training.distributed import ALONE, ProcessGroup
from models.training.loop import Task
from models.training.param_groups import batch_norms, freeze
from models.training.recipe import ClipRecipe, DetectorData, GlipRecipe, GroundingDinoRecipe, Recipe, RecipeError
from models.training.warm_start import start_clip, start_detector
from server.contract.text import PromptTokenizer, SentenceTokenizer

TOKENIZER = "tokenizer.json"
CANVAS = 32  # pixels: stride of the coarsest backbone stage; a batch's sides are multiples of it
DRAWINGS = "generated scenes of emoji drawings: Noto (Apache-2.0), Twemoji (CC-BY 4.0), Fluent (MIT)"
CUTOUTS = (
    "photographs of GCompris (public domain, CC0), and, only to learn from, photographic stamps of Tux Paint (GPL-2)"
)
BACKBONE = "EfficientNet-Lite0, learnt from ImageNet (Apache-2.0)"
WORDS = "words distilled from all-MiniLM-L6-v2 (Apache-2.0), which read WordNet's definitions"


@dataclass(frozen=True)
class PreparedRun:
    """A task ready to run, and what its checkpoint will hold beside the weights.

    continued: whether all weights are a checkpoint's, which the run may make worse.
    """

    task: Task
    tokenizer: Path
    source: str
    licence: str
    serving: Mapping[str, Any]
    steps_per_epoch: float | None = None
    continued: bool = False


@dataclass(frozen=True)
class _Model:
    """A model to train, with its tokenizer file, the "serving" section of its checkpoint, and all its serving rules."""

    model: Any
    tokenizer: Path
    serving: dict[str, Any]
    rules: ServingRules
    words: DistilledWords | None


def prepare(recipe: Recipe, *, folder: Path, group: ProcessGroup = ALONE) -> PreparedRun:
    """Prepare the run of a recipe in `folder`; RecipeError or DataError names what is wrong."""
    start = None if recipe.start is None else load(recipe.folder / recipe.start)
    words = None if recipe.words is None else DistilledWords(recipe.folder / recipe.words)
    made = _continued(recipe, start, words) if recipe.model is None else _fresh(recipe, start, words, folder)
    frozen = list(recipe.loop.frozen)
    if isinstance(recipe, ClipRecipe) and words is not None:
        frozen.append("text_tower.")
    frozen_modules = freeze(made.model, frozen)
    if recipe.model is None:
        frozen_modules += batch_norms(made.model)
    made.model.to(group.device)
    if group.device.type == "cpu":
        # Convolutions run about a fifth faster with the channels last.
        made.model.to(memory_format=torch.channels_last)
    build = FAMILIES[recipe.family].task
    assert build is not None, "recipes are of families that can be trained"
    task = build(recipe, made, group, frozen_modules)
    continued = start if recipe.model is None else None
    licence = "Apache-2.0" if continued is None else continued.licence
    steps = task.pictures and task.pictures / (recipe.loop.accumulate * recipe.data.batch * group.size)
    source = _source(recipe, continued)
    return PreparedRun(task, made.tokenizer, source, licence, made.serving, steps, continued is not None)


def _continued(recipe: Recipe, start: LoadedCheckpoint | None, words: DistilledWords | None) -> _Model:
    """The model of a checkpoint."""
    if start is None:
        raise RecipeError("the recipe has no [model]: give it, or a checkpoint with --start")
    if start.family != recipe.family:
        raise RecipeError(f"--start {recipe.start} is a {start.family}; the recipe trains a {recipe.family}")
    if recipe.data.tokenizer is not None:
        raise RecipeError("data.tokenizer and --start exclude each other: the tokenizer is the checkpoint's")
    if words is not None:
        raise RecipeError("--words is for a fresh model, of a recipe with [model]")
    return _with_rules(recipe, start.model, start.tokenizer_file, start.serving, None)


def _fresh(recipe: Recipe, start: LoadedCheckpoint | None, words: DistilledWords | None, folder: Path) -> _Model:
    """A model of the recipe's sizes, with the backbones of `start` and the text encoder of `words`."""
    assert recipe.model is not None
    if start is not None and start.family == recipe.family:
        raise RecipeError(
            f"the recipe's [model] and --start {recipe.start} exclude each other: its sizes are the checkpoint's"
        )
    tokenizer, family = _tokenizer(recipe, start, words, folder), FAMILIES[recipe.family]
    text = {**recipe.model.get("text", {}), "vocab_size": tokenizers.vocabulary_size(tokenizer)}
    try:
        config = from_json(family.config, {**recipe.model, "text": text})
    except ValueError as error:
        raise RecipeError(f"model: {error}") from error
    torch.manual_seed(recipe.seed)
    made = _with_rules(recipe, family.model(config), tokenizer, {}, words)
    if isinstance(made.model, Clip):
        assert isinstance(recipe, ClipRecipe)
        backbone = None if recipe.backbone is None else as_torch(read(recipe.folder / recipe.backbone).tensors)
        start_clip(made.model, start, words, backbone)
    else:
        frozen = any("text_backbone.".startswith(prefix) for prefix in recipe.loop.frozen)
        start_detector(made.model, start, words, PromptTokenizer(tokenizer, made.rules.text), frozen_words=frozen)
    return made


def _with_rules(
    recipe: Recipe, model: Any, tokenizer: Path, serving: Mapping[str, Any], words: DistilledWords | None
) -> _Model:
    """Add the serving rules: a model is served as it was trained, else as its checkpoint or its family says."""
    data = recipe.data
    rules = {"preprocessing": data.preprocessing, "buckets": data.buckets, "detection": getattr(data, "rules", None)}
    own = {name: one.model_dump(mode="json") for name, one in rules.items() if one is not None}
    if isinstance(recipe, GlipRecipe) and recipe.data.attention is not None:
        positions = model.config.text.max_positions
        own["text"] = {"attention": recipe.data.attention, "max_tokens": positions}
        if recipe.data.attention == "label":  # positions begin anew with each label
            own["text"] |= {"max_tokens": MAX_TOKENS, "max_label_tokens": positions}
    served = {**serving, **own}
    return _Model(model, tokenizer, served, FAMILIES[recipe.family].serving(model, tokenizer).overridden(served), words)


def _tokenizer(recipe: Recipe, start: LoadedCheckpoint | None, words: DistilledWords | None, folder: Path) -> Path:
    """The tokenizer of a fresh model."""
    if recipe.data.tokenizer is not None:
        file = recipe.folder / recipe.data.tokenizer
        if not file.is_file():
            raise RecipeError(f"data.tokenizer: {file} does not exist")
        return file
    if words is not None:
        return words.tokenizer
    if start is not None:
        return start.tokenizer_file
    if not recipe.scenes:
        return tokenizers.standard_file(FAMILIES[recipe.family].vocabulary)
    file = folder / TOKENIZER
    if not file.is_file():  # once written it stays: the word embeddings of a resumed run belong to it
        tokenizers.write_vocabulary(vocabulary_texts(_objects(recipe)), file)
    return file


def _objects(recipe: Recipe) -> tuple[NamedObject, ...]:
    """The objects of all sets of scenes; RecipeError if they differ."""
    lists = [table.objects(recipe.folder) for table in recipe.scenes]
    if any(one != lists[0] for one in lists):
        raise RecipeError("data.sets: all sets of scenes need the same names")
    return lists[0]


def _classes(recipe: Recipe) -> CategoryNames | None:
    """The classes of all folders of classes to train on, if there are any; RecipeError if others are validated."""
    read = {
        name: [table.read(recipe.folder) for table in tables if isinstance(table, ClassesConfig)]
        for name, tables in (("sets", recipe.data.sets), ("validation", recipe.data.validation))
    }
    if read["sets"] and any(table.single for table in recipe.scenes):
        raise RecipeError("data.sets: folders of classes cannot be mixed with scenes of single objects")
    names = CategoryNames(name for one in read["sets"] for name in one.names)
    for one in read["validation"]:
        if unknown := [name for name in one.names if names.place(name) is None]:
            known = ", ".join(names.names) or "none"
            raise RecipeError(
                f"data.validation: {one.name} has the class {unknown[0]!r}; classes to train on are {known}"
            )
    return names if read["sets"] else None


def detector_task(recipe: Recipe, made: _Model, group: ProcessGroup, frozen: list[nn.Module]) -> Task:
    """The task of a detector's recipe, named by the records of its families."""
    assert isinstance(recipe.data, DetectorData)
    data, text = recipe.data, made.rules.text
    prompts = PromptSampler(PromptTokenizer(made.tokenizer, text), text.max_tokens, data.prompts)
    adapter, queries, denoising = _adapter(recipe, made.model.config, group)

    def transform(held_out: bool) -> DetectionTransform:
        if not held_out:
            return DetectionTransform(prompts, made.rules.preprocessing, data.augmentation, denoising)
        absent = prompts.with_absent(1.0) if data.prompts.absent else None
        return DetectionTransform(prompts.with_absent(0.0), made.rules.preprocessing, absent_prompts=absent)

    batches = _batches(recipe, made, transform, lambda held_out: DetectionCollator(CANVAS, keep=held_out), group)
    serving: dict[str, Any] = {"rules": made.rules.detection, "calibrate": recipe.data.calibrate}
    return DetectionTask(made.model, adapter, queries, batches, group, frozen, **serving)


def _adapter(recipe: Recipe, config: Any, group: ProcessGroup) -> tuple[DetectorAdapter, nn.Module | None, Any]:
    """The adapter of a detector's family, and the embedding and the maker of its denoising queries, if it has any."""
    if isinstance(recipe, GlipRecipe):
        return GlipAdapter(recipe.loss), None, None
    assert isinstance(recipe, GroundingDinoRecipe)
    denoising = recipe.data.denoising
    if not denoising.queries:
        return GroundingDinoAdapter(recipe.loss), None, None

    def noise(*arguments: Any) -> Any:
        return add_noise(*arguments, config=denoising)

    return GroundingDinoAdapter(recipe.loss), LabelQueries(config.d_model).to(group.device), noise


def clip_task(recipe: ClipRecipe, made: _Model, group: ProcessGroup, frozen: list[nn.Module]) -> Task:
    """The task of a CLIP recipe, named by its family's record."""
    assert isinstance(made.model, Clip)
    texts, augmentation = SentenceTokenizer(made.tokenizer, made.rules.text), recipe.data.augmentation

    names = _classes(recipe)

    def transform(held_out: bool) -> ImageTextTransform:
        rules = None if held_out else augmentation
        return ImageTextTransform(texts, made.rules.preprocessing, rules, classes=names)

    classes: ClassTexts | None = None
    if names is not None:
        assert made.rules.classification is not None
        classes = TemplateTexts(names.names, made.rules.classification.templates, texts)
    elif any(table.single for table in recipe.scenes):
        classes = ObjectTexts(_objects(recipe), texts, None if made.words is None else made.words.embeddings)
    return ContrastiveTask(
        made.model,
        _batches(recipe, made, transform, lambda held_out: collate_image_text, group),
        group,
        frozen,
        classes=classes,
        smoothing=recipe.data.smoothing,
        calibrate=recipe.data.calibrate,
        seed=recipe.seed,
    )


def _batches(
    recipe: Recipe,
    made: _Model,
    transform: Callable[[bool], Any],
    collate: Callable[[bool], Any],
    group: ProcessGroup,
) -> TaskData[Any]:
    """The recipe's batches; `transform(held_out)` and `collate(held_out)` make the parts of their streams."""
    data, loop = recipe.data, recipe.loop
    context = OpenContext(
        recipe.folder,
        made.rules.preprocessing,
        prompts=data.prompts if isinstance(data, DetectorData) else PromptConfig(),
        embeddings=None if made.words is None else made.words.embeddings,
    )
    layout, length = BatchLayout(data.batch, data.workers, group.size), loop.steps * loop.accumulate
    sets, held_out = open_sets(data.sets, context), None
    if data.validation:
        held_sets = open_sets(data.validation, replace(context, held_out=True))
        held_out = BatchStream(held_sets, transform(True), collate(True), BatchLayout(data.batch, 0), seed=recipe.seed)
    run: dict[str, Any] = {"seed": recipe.seed, "rank": group.rank, "length": length}
    training = BatchStream(sets, transform(False), collate(False), layout, **run)
    counts = [len(one.records) for one in sets if isinstance(one.records, Sized)]
    pictures = sum(counts) if len(counts) == len(sets) else None
    return TaskData(training, held_out, data.validation_batches, pictures)


def _has_efficientnet(recipe: Recipe) -> bool:
    model = recipe.model or {}
    return "EfficientNetConfig" in {
        model.get("backbone", {}).get("type"),
        model.get("image", {}).get("backbone", {}).get("type"),
    }


def _source(recipe: Recipe, continued: LoadedCheckpoint | None) -> str:
    sources = [DRAWINGS] if recipe.scenes else []
    sources += [CUTOUTS] if any(isinstance(table, PhotoScenesConfig) for table in recipe.scenes) else []
    sources += [BACKBONE] if _has_efficientnet(recipe) else []
    sources += [WORDS] if recipe.words is not None else []
    if len(recipe.scenes) < len(recipe.data.sets):
        sources.append("data sets of the recipe")
    source = "; ".join(sources)
    return source if continued is None else f"{source}, from {continued.source}"
