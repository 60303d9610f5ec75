import re
import tomllib
from pathlib import Path

import pytest

from models.synthetic.scene_set import ScenesConfig
from models.training.recipe import CONFIGS, RecipeError, parse_recipe, read_recipe

README = Path(__file__).parents[3] / "models/training/README.md"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_bundled_recipes_are_found_by_name(file: Path):
    recipe = read_recipe(file.stem)
    assert recipe.name == file.stem
    assert recipe == read_recipe(file)


def test_the_recipes_in_the_readme_are_recipes():
    texts = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert texts
    for text in texts:
        parse_recipe(tomllib.loads(text), Path())


def test_an_unknown_recipe_names_the_bundled_ones():
    with pytest.raises(RecipeError, match="clip-drawings"):
        read_recipe("no-such-recipe")


def changed(folder: Path, old: str, new: str) -> Path:
    text = (CONFIGS / "grounding-dino-drawings.toml").read_text()
    assert old in text
    file = folder / "bad.toml"
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "learnign_rate", "loop.learnign_rate is no known entry"),
        ("learning_rate", "learnign_rate", "loop.learning_rate is missing"),
        ("steps = 3000", 'steps = "many"', "loop.steps is 'many': "),
        ("dense = 1.0", "dens = 1.0", "loss.dens is no known entry"),
        ("most_objects = 6", "most_object = 6", "data.sets.0.full.most_object is no known entry"),
        ("box_threshold = 0.3", "box_threshold = 3", "data.rules.box_threshold is 3: "),
        ("queries = 0", "query = 0", "data.denoising.query is no known entry"),
        ('format = "scenes"', 'format = "scene"', "data.sets.0.format is 'scene'; accepted are 'coco', 'odvg'"),
        ('family = "grounding_dino"', "", "family is missing"),
        ("batch = 16", "", "data.batch is missing"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file_and_path(tmp_path: Path, old: str, new: str, message: str):
    with pytest.raises(RecipeError, match=re.escape(message)) as error:
        read_recipe(changed(tmp_path, old, new))
    assert str(error.value).startswith(f"{tmp_path / 'bad.toml'}: ")


def test_all_wrong_entries_are_told_at_once(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"loop\.stepps is no known entry") as error:
        read_recipe(changed(tmp_path, "steps = ", "stepps = "))
    assert "loop.steps is missing" in str(error.value)


def test_scenes_to_validate_with_are_those_to_train_on_unless_told_otherwise():
    data = read_recipe("glip-drawings").data
    assert data.validation == data.sets
    table = {
        "family": "glip",
        "name": "x",
        "loop": {"steps": 1, "learning_rate": 0.1},
        "data": {
            "batch": 1,
            "sets": [{"format": "scenes", "weight": 2, "small": 0.5}],
            "validation": [{"format": "scenes", "small": 0.1}],
        },
    }
    (scenes,) = parse_recipe(table, Path()).data.validation
    assert isinstance(scenes, ScenesConfig)
    assert (scenes.small, scenes.weight) == (0.1, None)


def test_flags_replace_entries_of_the_recipe_and_of_its_scenes(tmp_path: Path):
    recipe = read_recipe(
        "clip-drawings", start=tmp_path / "start", names=tmp_path / "names.txt", styles=["noto"], words=None
    )
    assert recipe.start == tmp_path / "start"
    assert recipe.words is None
    for scenes in (*recipe.scenes, *recipe.data.validation):
        assert isinstance(scenes, ScenesConfig)
        assert (scenes.names, scenes.styles) == (tmp_path / "names.txt", ("noto",))


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text((CONFIGS / "clip-drawings.toml").read_text(), encoding="utf-8-sig")
    assert read_recipe(tmp_path / "recipe.toml").family == "clip"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff", "is no UTF-8"), (b"a = " + b"[" * 100_000, "is no TOML"), (b"a = " + b"7" * 5000, "is no TOML")],
    ids=["latin", "nested", "digits"],
)
def test_what_is_no_recipe_at_all_is_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=rf"recipe\.toml {message}"):
        read_recipe(tmp_path / "recipe.toml")
