"""A training recipe: the TOML file that says what is trained, on what, and for how long."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from models.data.augmentation import DetectorAugmentation, SquareAugmentation
from models.data.datasets import CaptionsConfig, ClassesConfig, CocoConfig, OdvgConfig, ShardsConfig, YoloConfig
from models.data.grounding_prompts import PromptConfig
from models.data.images import DataError
from models.data.text_files import read_text
from models.losses.glip_loss import AlignmentLossConfig
from models.losses.grounding_dino_loss import DetectorLossConfig
from models.synthetic.photo_scene_set import PhotoScenesConfig
from models.synthetic.scene_set import ScenesConfig
from models.training.denoising import DenoisingConfig
from models.training.loop import LoopConfig
from server.contract.manifest import Buckets, DetectionRules, Preprocessing

CONFIGS = Path(__file__).parent / "configs"
GeneratedScenes = ScenesConfig | PhotoScenesConfig
SetTable = Annotated[
    CocoConfig
    | OdvgConfig
    | YoloConfig
    | CaptionsConfig
    | ClassesConfig
    | ShardsConfig
    | ScenesConfig
    | PhotoScenesConfig,
    Field(discriminator="format"),
]


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the file, the entry and what is accepted."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class DataConfig(_Table):
    """`[data]`: sets to train on and to validate with.

    batch: pictures of a batch in each process; workers: reading processes of each, 0 for none. preprocessing and
    buckets default to the checkpoint's or the family's. tokenizer: file for a fresh model (default: the vocabulary of
    the distilled words, the start or the family). calibrate: at the end of the run, fit the scores to the validation
    sets.
    """

    batch: PositiveInt
    sets: Annotated[tuple[SetTable, ...], Field(min_length=1)]
    workers: NonNegativeInt = 2
    validation: tuple[SetTable, ...] = ()
    validation_batches: PositiveInt = 8
    preprocessing: Preprocessing | None = None
    buckets: Buckets | None = None
    tokenizer: Path | None = None
    calibrate: bool = False


class ClipData(DataConfig):
    """`[data]` of a CLIP. smoothing: label smoothing of the loss of each picture."""

    augmentation: SquareAugmentation = SquareAugmentation()
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class DetectorData(DataConfig):
    """`[data]` of a detector. rules: how it is served, and validated by AP50 (default: the checkpoint's)."""

    augmentation: DetectorAugmentation = DetectorAugmentation()
    prompts: PromptConfig = PromptConfig()
    rules: DetectionRules | None = None


class GlipData(DetectorData):
    """`[data]` of a GLIP. attention: whether tokens see their own label or the whole prompt (default: the start's)."""

    attention: Literal["label", "prompt"] | None = None


class GroundingDinoData(DetectorData):
    """`[data]` of a Grounding DINO."""

    denoising: DenoisingConfig = DenoisingConfig()


class Recipe(_Table):
    """The entries of every family.

    start: the checkpoint to continue, or with `model`, the sizes of a fresh model, one whose backbones are taken over.
    words: the folder of a distillation, whose vocabulary and text encoder are taken. Paths start at `folder`.
    """

    family: str
    name: str
    loop: LoopConfig
    seed: int = 0
    start: Path | None = None
    words: Path | None = None
    model: dict[str, Any] | None = None
    folder: Path = CONFIGS
    data: DataConfig

    @property
    def scenes(self) -> tuple[GeneratedScenes, ...]:
        """The sets of generated scenes."""
        return tuple(table for table in self.data.sets if isinstance(table, GeneratedScenes))


class ClipRecipe(Recipe):
    """A recipe for a CLIP; `backbone`: published weights for a fresh image tower."""

    family: Literal["clip"]
    backbone: Path | None = None
    data: ClipData


class GlipRecipe(Recipe):
    """A recipe for a GLIP; `loss`: its weights."""

    family: Literal["glip"]
    data: GlipData
    loss: AlignmentLossConfig = AlignmentLossConfig()


class GroundingDinoRecipe(Recipe):
    """A recipe for a Grounding DINO; `loss`: its weights."""

    family: Literal["grounding_dino"]
    data: GroundingDinoData
    loss: DetectorLossConfig = DetectorLossConfig()


_RECIPE: TypeAdapter[Recipe] = TypeAdapter(
    Annotated[ClipRecipe | GlipRecipe | GroundingDinoRecipe, Field(discriminator="family")]
)
# Flags for each format of generated scenes.
_SCENE_FLAGS = {
    "scenes": ("sprites", "styles", "names"),
    "photo_scenes": ("photographs", "sprites", "names"),
}
_ANY_SCENE_FLAG = {flag for flags in _SCENE_FLAGS.values() for flag in flags}


def read_recipe(path: str | Path, **flags: Any) -> Recipe:
    """Read the recipe in a TOML file; a bare name such as "glip-mini" is one of those bundled with the project.

    `flags` replace entries of the same name: of the recipe, or of its sets of scenes.
    """
    file = Path(path)
    if not file.suffix and not file.exists():
        file = CONFIGS / f"{path}.toml"
    if not file.is_file():
        known = sorted(found.stem for found in CONFIGS.glob("*.toml"))
        raise RecipeError(f"there is no recipe {path}; give a TOML file or one of {known}")
    try:
        table = tomllib.loads(read_text(file))
    except DataError as error:
        raise RecipeError(str(error)) from error
    except (ValueError, RecursionError) as error:  # also a number of too many digits, and brackets nested too deeply
        raise RecipeError(f"{file} is no TOML: {error}") from error
    return parse_recipe(table, file.parent, name=str(file), **flags)


def parse_recipe(table: Mapping[str, Any], folder: Path, *, name: str = "recipe", **flags: Any) -> Recipe:
    """Check a recipe's table, whose paths start at `folder`; RecipeError names every entry that is wrong."""
    given = {key: value for key, value in flags.items() if value is not None}
    table = {**table, **{key: value for key, value in given.items() if key not in _ANY_SCENE_FLAG}}
    if isinstance(table.get("data"), dict):
        table["data"] = _with_scenes(table["data"], {key: given[key] for key in _ANY_SCENE_FLAG & given.keys()})
    try:
        return _RECIPE.validate_python({**table, "folder": folder})
    except ValidationError as error:
        # A list of faulty tables is also too short once they are left out.
        faults = [one for one in error.errors() if not (one["type"] == "too_short" and one["input"])]
        raise RecipeError(f"{name}: {'; '.join(_told(one['loc'], one, table) for one in faults)}") from None


def _with_scenes(data: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Let sets of scenes take `flags`, and those to validate with the entries of the first to train on."""
    tables = {key: data[key] for key in ("sets", "validation") if isinstance(data.get(key), list)}
    first: dict[str, dict[str, Any]] = {}
    for table in tables.get("sets", []):
        if kind := _scenes_format(table):
            first.setdefault(kind, {key: value for key, value in table.items() if key != "weight"})

    def filled(table: Any) -> Any:
        kind = _scenes_format(table)
        own = {key: value for key, value in flags.items() if kind and key in _SCENE_FLAGS[kind]}
        return {**first.get(kind, {}), **table, **own} if kind else table

    return data | {key: [filled(table) for table in some] for key, some in tables.items()}


def _scenes_format(table: Any) -> str | None:
    kind = table.get("format") if isinstance(table, dict) else None
    return kind if isinstance(kind, str) and kind in _SCENE_FLAGS else None


def _told(location: tuple[int | str, ...], fault: Any, table: Any) -> str:
    """A fault in words, with the path of its entry: tags of unions, which pydantic puts into it, are left out."""
    path = []
    for place, key in enumerate(location):
        inside = key in table if isinstance(table, dict) else isinstance(table, list) and isinstance(key, int)
        if inside or place == len(location) - 1:
            path.append(str(key))
            table = table[key] if inside else None
    if fault["type"].startswith("union_tag"):
        path.append(fault["ctx"]["discriminator"].strip("'"))
    where = ".".join(path)
    if fault["type"] == "union_tag_invalid":
        return f"{where} is {fault['ctx']['tag']!r}; accepted are {fault['ctx']['expected_tags']}"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where} is no known entry"
    if fault["type"] in ("missing", "missing_argument", "union_tag_not_found"):
        return f"{where} is missing"
    return f"{where} is {fault['input']!r}: {fault['msg']}"
