"""One rule for lists on the command line, and the options that commands share."""

import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.command_options import (
    ListAction,
    OptionError,
    add_detection_options,
    add_model_options,
    api_key,
    label_thresholds,
)
from openset.command_options import given as given_options
from server.registry.model_cache import bundle_name

LABEL = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=",;|.[]-"), min_size=1, max_size=8)


def parser(**options):
    made = argparse.ArgumentParser(exit_on_error=False)
    made.add_argument("--labels", action=ListAction, **options)
    return made


def read(*words, **options):
    return parser(**options).parse_args(words).labels


@given(st.lists(LABEL, min_size=1, max_size=5, unique=True))
def test_commas_repetition_and_json_mean_the_same(labels):
    repeated = [word for label in labels for word in ("--labels", label)]
    assert read("--labels", ",".join(labels)) == labels
    assert read("--labels", " , ".join(labels) + ",") == labels
    assert read(*repeated) == labels
    assert read("--labels", json.dumps(labels)) == labels


def test_forms_mix_and_a_label_counts_once():
    assert read("--labels", "dog,cat", "--labels", '["a, b", "cat"]') == ["dog", "cat", "a, b"]


def test_comma_is_part_of_a_text():
    assert read("--labels", "a dog, running", "a cat", nargs="+", commas=False) == ["a dog, running", "a cat"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("dog. cat.", "reads like a prompt (--prompt); for several, write --labels 'dog,cat'"),
        ("dog;cat", "';' separates nothing; for several, write --labels 'dog,cat', for just this '[\"dog;cat\"]'"),
        ("dog|cat", "'|' separates nothing"),
        ("[dog, cat]", "begins like a JSON array, and is none; for several, write --labels 'dog,cat'"),
        ("['dog', 'cat']", "for several, write --labels 'dog,cat'"),
        ("[1, 2]", "a JSON array of texts is expected"),
        ("[]", "it names nothing"),
        (" , ", "it names nothing"),
        ("", "it names nothing"),
    ],
)
def test_wrong_guess_is_told_what_was_meant(value, told):
    with pytest.raises(argparse.ArgumentError) as refused:
        read("--labels", value)
    assert told in str(refused.value)


def test_way_to_write_one_odd_label_works():
    assert read("--labels", '["dog. cat."]') == ["dog. cat."]


def test_choice_that_is_none_is_named_with_all():
    with pytest.raises(argparse.ArgumentError, match="there is no 'tfrecord'; there are coco, yolo"):
        read("--labels", "coco,tfrecord", choices=("coco", "yolo"))


def test_bundle_and_server_exclude_each_other():
    made = argparse.ArgumentParser()
    add_model_options(made, parallel=3)
    for words in (["--bundle", "b", "--url", "http://x"], ["--parallel", "0"]):
        with pytest.raises(SystemExit):
            made.parse_args(words)
    assert made.parse_args([]).parallel == 3


@pytest.mark.parametrize("name", ["grounding-dino-tiny", "laion/CLIP-ViT-B-32", "laion/CLIP-ViT-B-32@v1.0"])
def test_model_of_a_repository_is_asked_for_by_the_name_of_its_bundle(name):
    made = argparse.ArgumentParser()
    add_model_options(made, parallel=3)
    assert made.parse_args(["--model", name]).model == bundle_name(name)


def test_key_is_that_of_the_options_or_of_the_environment(monkeypatch):
    monkeypatch.delenv("OPENSET_API_KEY", raising=False)
    assert api_key(argparse.Namespace(api_key=None)) is None
    monkeypatch.setenv("OPENSET_API_KEY", "of the environment")
    assert api_key(argparse.Namespace(api_key=None)) == "of the environment"
    assert api_key(argparse.Namespace(api_key="given")) == "given"


def test_only_options_that_were_given_become_fields():
    made = argparse.ArgumentParser()
    add_detection_options(made)
    args = made.parse_args(["--box-threshold", "0", "--max-detections", "5", "--shorter", "240"])
    assert given_options(args, vars(args)) == {"box_threshold": 0.0, "max_detections": 5, "shorter": 240}


def test_threshold_of_one_label_leaves_the_others_their_own():
    made = argparse.ArgumentParser()
    add_detection_options(made)
    args = made.parse_args(["--threshold", "cat=0.5"])
    assert label_thresholds(args, ["dog", "cat"]) == {"label_thresholds": [None, 0.5]}
    assert label_thresholds(made.parse_args([]), ["dog"]) == {}
    with pytest.raises(OptionError, match="cat=…: the labels are dog"):
        label_thresholds(args, ["dog"])
    with pytest.raises(OptionError, match="instead of --prompt"):
        label_thresholds(args, None)
