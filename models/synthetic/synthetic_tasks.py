"""From a recipe to a task, for each family that can be trained."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from models.clip.config import ClipConfig
from models.clip.model import Clip, ResNetTower
from models.config_io import from_json
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.backbone import ResNetStages
from models.losses.glip_loss import AlignmentLossConfig
from models.losses.grounding_dino_loss import DetectorLossConfig
from models.registry import LoadedCheckpoint, load
from models.synthetic.detection_task import DetectionConfig, DetectionTask
from models.synthetic.distillation import BERT, load_student, read_embeddings
from models.synthetic.image_text_task import ImageTextConfig, ImageTextTask, Places
from models.synthetic.label_phrases import vocabulary_texts
from models.synthetic.prompt_sampler import AskingConfig
from models.synthetic.sprites import NamedObject, SpritePack
from models.tokenizers import text_rules, vocabulary_size, write_vocabulary
from models.training.detectors import Detector, GlipDetector, GroundingDinoDetector
from models.training.loop import LoopConfig, SelfFedTask, Task
from models.training.recipe import Recipe, curriculum, filled
from models.training.warm_start import align
from server.contract.manifest import Buckets, DetectionRules, Preprocessing, TextRules
from server.contract.text import PromptTokenizer

TOKENIZER = "tokenizer.json"
MAX_TOKENS = 256
DRAWINGS = "generated scenes of emoji drawings: Noto (Apache-2.0), Twemoji (CC-BY 4.0), Fluent (MIT)"
WORDS = "words distilled from all-MiniLM-L6-v2 (Apache-2.0), which read WordNet's definitions"


@dataclass(frozen=True)
class Prepared:
    """A task ready to run, the model's config and its tokenizer file, and what the checkpoint will say of itself."""

    task: Task
    config: Any
    tokenizer: Path
    recipe: Recipe
    source: str = DRAWINGS
    licence: str = "Apache-2.0"
    serving: Mapping[str, Any] = field(default_factory=dict)

    def loop(self, steps: int | None) -> LoopConfig:
        """The recipe's loop, of another length if one is given."""
        return self.recipe.loop if steps is None else replace(self.recipe.loop, steps=steps)


def prepare_clip(
    recipe: Recipe,
    pack: SpritePack,
    objects: tuple[NamedObject, ...],
    *,
    folder: Path,
    start: Path | None,
    words: Path | None = None,
) -> Prepared:
    """A CLIP from scratch; `start` is not used. `words` brings vocabulary and text tower."""
    if start is not None:
        raise ValueError(f"--start {start}: a CLIP is trained from scratch")
    tokenizer = _vocabulary(objects, folder, words)
    config = from_json(ClipConfig, _model(recipe, tokenizer))
    model = Clip(config)
    _channels_last(model)
    data = filled(ImageTextConfig, _data(recipe))
    task = ImageTextTask(model, pack, objects, tokenizer, data, seed=recipe.seed, words=words)
    return Prepared(SelfFedTask(task), config, tokenizer, recipe, source=_source(words))


def prepare_grounding_dino(
    recipe: Recipe,
    pack: SpritePack,
    objects: tuple[NamedObject, ...],
    *,
    folder: Path,
    start: Path | None,
    words: Path | None = None,
) -> Prepared:
    """A Grounding DINO; from `start`, a CLIP checkpoint, come its backbone, vocabulary and word embeddings.

    `words` brings its text backbone, and the vocabulary.
    """
    clip = _start(start, "clip")
    from_start = None if clip is None or words is not None else clip.tokenizer_file
    tokenizer = _vocabulary(objects, folder, words) if from_start is None else _copied(from_start, folder)
    config = from_json(GroundingDinoConfig, _model(recipe, tokenizer))
    model = GroundingDino(config)
    if clip is not None:
        assert isinstance(clip.model, Clip)
        take_over_tower(model, clip.model)
    if words is not None:
        load_student(words, BERT, model.text_backbone)
    else:
        _refuse_frozen_words(recipe)
    detector = GroundingDinoDetector(filled(DetectorLossConfig, recipe.loss))
    rules = text_rules(tokenizer, "phrases", max_tokens=MAX_TOKENS)
    if clip is not None and words is not None:
        _align(model, clip.model, objects, words, PromptTokenizer(tokenizer, rules))
    return _detection(recipe, pack, objects, model, detector, tokenizer, rules, words)


def prepare_glip(
    recipe: Recipe,
    pack: SpritePack,
    objects: tuple[NamedObject, ...],
    *,
    folder: Path,
    start: Path | None,
    words: Path | None = None,
) -> Prepared:
    """A GLIP; from `start`, a Grounding DINO checkpoint, come its backbone, vocabulary and text backbone.

    `words` brings text backbone and vocabulary instead; then `start`, which may be a CLIP, gives the backbone only.
    """
    table = dict(recipe.data)
    attention = table.pop("attention", "prompt")
    if words is None:
        dino = _start(start, "grounding_dino")
        tokenizer = _vocabulary(objects, folder) if dino is None else _copied(dino.tokenizer_file, folder)
    else:
        tokenizer = _vocabulary(objects, folder, words)
    config = from_json(GlipConfig, _model(recipe, tokenizer))
    model = Glip(config)
    images = None if words is None or start is None else load(start).model
    if words is not None:
        load_student(words, BERT, model.text_backbone)
        if images is not None:
            take_over_images(model, images)
    elif dino is not None:
        assert isinstance(dino.model, GroundingDino)
        take_over_backbones(model, dino.model)
    else:
        _refuse_frozen_words(recipe)
    detector = GlipDetector(filled(AlignmentLossConfig, recipe.loss))
    positions = config.text.max_positions
    limits: dict[str, Any] = {"attention": attention, "max_tokens": positions}
    if attention == "label":  # positions begin anew with each label
        limits |= {"max_tokens": MAX_TOKENS, "max_label_tokens": positions}
    rules = text_rules(tokenizer, "phrases", **limits)
    if words is not None and images is not None:
        _align(model, images, objects, words, PromptTokenizer(tokenizer, rules))
    prepared = _detection(replace(recipe, data=table), pack, objects, model, detector, tokenizer, rules, words)
    return replace(prepared, serving={"text": limits})


def _detection(
    recipe: Recipe,
    pack: SpritePack,
    objects: tuple[NamedObject, ...],
    model: GroundingDino | Glip,
    detector: Detector,
    tokenizer: Path,
    rules: TextRules,
    words: Path | None,
) -> Prepared:
    table = _data(recipe)
    table["buckets"] = Buckets.model_validate(table["buckets"])
    table["rules"] = DetectionRules.model_validate(table["rules"])
    table["asking"] = filled(AskingConfig, table.get("asking", {}))
    table["frozen"] = tuple(table.get("frozen", ()))
    _channels_last(model)
    prompts = PromptTokenizer(tokenizer, rules)
    config = filled(DetectionConfig, table)
    task = DetectionTask(model, detector, pack, objects, prompts, config, seed=recipe.seed, words=words)
    return Prepared(SelfFedTask(task), model.config, tokenizer, recipe, source=_source(words))


def take_over_tower(detector: GroundingDino, clip: Clip) -> None:
    """Copy a CLIP's residual tower into the detector's backbone, and its word embeddings where they are as wide."""
    take_over_images(detector, clip)
    theirs, ours = clip.text_tower.tokens.weight, detector.text_backbone.embeddings.words.weight
    if theirs.shape == ours.shape:
        with torch.no_grad():
            ours.copy_(theirs)


def take_over_images(model: GroundingDino | Glip, start: nn.Module) -> None:
    """Copy the residual backbone of a CLIP or a Grounding DINO."""
    if isinstance(start, Clip) and isinstance(start.image_tower, ResNetTower):
        found: nn.Module = start.image_tower.backbone
    elif isinstance(start, GroundingDino) and isinstance(start.backbone, ResNetStages):
        found = start.backbone.resnet
    else:
        raise ValueError(f"a backbone can be taken over from a ResNet only, not from a {type(start).__name__}")
    assert isinstance(model.backbone, ResNetStages)
    model.backbone.resnet.load_state_dict(found.state_dict())


def _align(
    model: GroundingDino | Glip,
    start: nn.Module,
    objects: tuple[NamedObject, ...],
    words: Path,
    prompts: PromptTokenizer,
) -> None:
    """Let a detector that starts from a CLIP, and reads its last map, begin with what pictures and words share."""
    tower = start.image_tower if isinstance(start, Clip) else None
    if not isinstance(tower, ResNetTower) or not isinstance(tower.pool, nn.Sequential):
        return
    head, last = tower.pool[-1], model.config.stages[-1]
    if isinstance(head, nn.Linear) and model.config.backbone.channels[last] == head.in_features:
        places = Places(read_embeddings(words), objects).labels
        align(model, head, [item.label for item in objects], places, prompts)


def take_over_backbones(glip: Glip, dino: GroundingDino) -> None:
    """Copy a Grounding DINO's backbone and text backbone; positions stay fresh, since here they do not restart."""
    positions = glip.text_backbone.embeddings.positions.weight.detach().clone()
    text = {**dino.text_backbone.state_dict(), "embeddings.positions.weight": positions}
    try:
        glip.backbone.load_state_dict(dino.backbone.state_dict())
        glip.text_backbone.load_state_dict(text)
    except RuntimeError as error:
        raise ValueError(f"the backbones of the start are of another size than the recipe's: {error}") from error


def _start(path: Path | None, family: str) -> LoadedCheckpoint | None:
    if path is None:
        return None
    loaded = load(path)
    if loaded.family != family:
        raise ValueError(f"--start {path} is a {loaded.family}; a trained {family} is expected")
    return loaded


def _model(recipe: Recipe, tokenizer: Path) -> dict[str, Any]:
    return {**recipe.model, "text": {**recipe.model["text"], "vocab_size": vocabulary_size(tokenizer)}}


def _refuse_frozen_words(recipe: Recipe) -> None:
    """Words that mean nothing must not stay so."""
    if "text_backbone." in recipe.data.get("frozen", ()):
        raise ValueError("the recipe freezes the text backbone: give --words, the folder of a distillation")


def _source(words: Path | None) -> str:
    return DRAWINGS if words is None else f"{DRAWINGS}; {WORDS}"


def _copied(tokenizer: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(tokenizer, folder / TOKENIZER))


def _vocabulary(objects: tuple[NamedObject, ...], folder: Path, words: Path | None = None) -> Path:
    """The run's tokenizer: once written it stays, since the word embeddings of a resumed run belong to it."""
    file = folder / TOKENIZER
    if words is not None:
        return _copied(words / TOKENIZER, folder)
    if not file.is_file():
        write_vocabulary(vocabulary_texts(objects), file)
    return file


def _data(recipe: Recipe) -> dict[str, Any]:
    table = dict(recipe.data)
    preprocessing = Preprocessing.model_validate(table.pop("preprocessing"))
    scenes = curriculum(table.pop("scenes"))
    return {**table, "preprocessing": preprocessing, "curriculum": scenes}


def _channels_last(model: nn.Module) -> None:
    """Lay weights out for convolutions with the channels last, which run about a fifth faster on CPU."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs


class Prepare(Protocol):
    """Builds the task of a family."""

    def __call__(
        self,
        recipe: Recipe,
        pack: SpritePack,
        objects: tuple[NamedObject, ...],
        *,
        folder: Path,
        start: Path | None,
        words: Path | None = None,
    ) -> Prepared: ...


FAMILIES: dict[str, Prepare] = {
    "clip": prepare_clip,
    "grounding_dino": prepare_grounding_dino,
    "glip": prepare_glip,
}
