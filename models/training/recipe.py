"""A training recipe: the TOML file that says what is trained, on what, and for how long."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from models.synthetic.curriculum import Curriculum
from models.synthetic.scenes import SceneConfig
from models.training.loop import LoopConfig

T = TypeVar("T")
CONFIGS = Path(__file__).parent / "configs"


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the entry and what is accepted."""


@dataclass(frozen=True)
class Recipe:
    """`model`, `data` and `loss` (its weights) are what the family makes of them.

    `start` is the checkpoint to start from, if any; paths start at `folder`.
    """

    family: str
    name: str
    seed: int
    loop: LoopConfig
    data: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    folder: Path = CONFIGS

    @property
    def annotated(self) -> bool:
        """Whether it trains on data sets, not on generated pictures."""
        return "sets" in self.data


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file; a bare name such as "clip-mini" is one of those that come with the project."""
    file = Path(path)
    if not file.suffix and not file.exists():
        file = CONFIGS / f"{path}.toml"
    if not file.is_file():
        known = sorted(found.stem for found in CONFIGS.glob("*.toml"))
        raise RecipeError(f"there is no recipe {path}; give a TOML file or one of {known}")
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{file} is no TOML: {error}") from error
    return filled(Recipe, {**table, "loop": filled(LoopConfig, table.get("loop", {})), "folder": file.parent})


def filled(kind: type[T], table: dict[str, Any]) -> T:
    """A config dataclass of a table; RecipeError names what is missing or not known."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(table.keys() - known):
        raise RecipeError(f"{kind.__name__} has no {unknown}; it has {sorted(known)}")
    try:
        return kind(**table)
    except TypeError as error:
        raise RecipeError(f"{kind.__name__} is incomplete: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{kind.__name__}: {error}") from error


def curriculum(table: dict[str, Any]) -> Curriculum:
    """The curriculum of a `[data.scenes]` table: the full difficulty, and in `easy` what the run begins with."""
    table = dict(table)
    options: dict[str, Any] = {"until": table.pop("until", Curriculum.until)}
    if "easy" in table:
        options["easy"] = filled(SceneConfig, table.pop("easy"))
    return Curriculum(filled(SceneConfig, table), **options)
