"""Arguments of the commands that ask a model about pictures."""

import pytest

from server.__main__ import make_parser


def parse(*words):
    return make_parser(words[0]).parse_args(words)


def test_commands_take_several_pictures():
    assert parse("detect", "a.jpg", "folder", "--labels", "dog").images == ["a.jpg", "folder"]
    assert parse("similarity", "a.jpg", "--texts", "a dog, running", "a cat").texts == ["a dog, running", "a cat"]
    assert parse("classify", "*.jpg", "--labels", "dog,cat", "--template", "a {}, b").templates == ["a {}, b"]


@pytest.mark.parametrize("words", [["detect", "a.jpg"], ["detect", "a.jpg", "--labels", "a", "--prompt", "b."]])
def test_detection_needs_labels_or_a_prompt(words):
    with pytest.raises(SystemExit):
        parse(*words)
