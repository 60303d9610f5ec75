"""Arguments of training."""

from pathlib import Path

import pytest

from server.__main__ import make_parser


def parse(*words):
    return make_parser("train").parse_args(["train", "recipe.toml", "--out", "o", *words])


def test_paths_stay_where_the_command_was_given():
    assert parse("--start", "c").start == Path.cwd() / "c"


def test_styles_are_a_list_as_everywhere():
    assert parse("--styles", "noto,fluent").styles == ["noto", "fluent"]


@pytest.mark.parametrize("words", [["--steps", "0"], ["--threads", "-1"], ["--threads", "two"]])
def test_number_that_is_none_is_refused(words):
    with pytest.raises(SystemExit):
        parse(*words)
