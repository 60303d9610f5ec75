from pathlib import Path

import pytest

from models.synthetic.curriculum import Curriculum
from models.synthetic.scenes import SceneConfig
from models.training.recipe import CONFIGS, RecipeError, curriculum, read_recipe


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_bundled_recipes_are_found_by_name(file: Path):
    recipe = read_recipe(file.stem)
    assert recipe.name == file.stem
    assert recipe == read_recipe(file)


def test_an_unknown_recipe_names_the_bundled_ones():
    with pytest.raises(RecipeError, match="clip-mini"):
        read_recipe("no-such-recipe")


def test_a_misspelt_entry_is_named(tmp_path: Path):
    file = tmp_path / "bad.toml"
    file.write_text((CONFIGS / "clip-mini.toml").read_text().replace("learning_rate", "learnign_rate"))
    with pytest.raises(RecipeError, match="learnign_rate"):
        read_recipe(file)


def test_a_missing_entry_is_named(tmp_path: Path):
    file = tmp_path / "bad.toml"
    file.write_text('family = "clip"\nname = "x"\nseed = 0\n[loop]\nsteps = 3\n')
    with pytest.raises(RecipeError, match="learning_rate"):
        read_recipe(file)


def test_the_curriculum_goes_from_easy_to_full_and_stays_there():
    steps = Curriculum(SceneConfig(smallest=0.2, most_objects=6), SceneConfig(smallest=0.8, most_objects=2), until=0.5)
    assert steps.at(0.0).smallest == pytest.approx(0.8)
    assert steps.at(0.25).smallest == pytest.approx(0.5)
    assert steps.at(0.25).most_objects == 4
    assert steps.at(0.5) == steps.at(1.0) == steps.full


def test_a_scenes_table_may_say_how_to_begin():
    made = curriculum({"smallest": 0.3, "until": 0.1, "easy": {"smallest": 0.9}})
    assert (made.full.smallest, made.until, made.easy.smallest) == (0.3, 0.1, 0.9)
