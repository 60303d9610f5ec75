"""The official checkpoints that `openset pull` knows."""

import re

import pytest

from models.model_zoo import OFFICIAL, repository


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_checkpoint_has_a_repository_a_licence_and_weights(name):
    official = OFFICIAL[name]
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name), "names are folders of the cache"
    assert re.fullmatch(r"[\w-]+/[\w.-]+", official.repository)
    assert official.licence in ("MIT", "Apache-2.0")
    assert official.weights


def test_safetensors_are_preferred_to_pickles():
    for official in OFFICIAL.values():
        if len(official.weights) > 1:
            assert official.weights[0].endswith(".safetensors")


@pytest.mark.parametrize(
    ("name", "revision"),
    [("org/name", "main"), ("org/name@v2", "v2"), ("a/b@refs/pr/1", "refs/pr/1"), ("_a/B.c-d_e@" + "f" * 40, "f" * 40)],
)
def test_repository_is_named_as_the_hub_does(name, revision):
    found = repository(name)
    assert (found.repository, found.revision, found.is_any) == (name.partition("@")[0], revision, True)


@pytest.mark.parametrize(
    "name",
    ["clip", "a/b/c", "a/b@", "a--b/c", "a/b--c", "a/b.git", "a/b.", "-a/b", "a/..", "a/b@x..y", "s\u00f8/b", "a/b c"],
)
def test_name_that_the_hub_has_not_is_no_repository(name):
    assert repository(name) is None
