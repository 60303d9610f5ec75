"""The files that are fetched from a repository: its weights under known names, in shards, or the only ones."""

import pytest

from models.hub_client import HubError
from models.model_zoo import OFFICIAL, repository
from models.repository_files import check_model_type, weights_of

ANY = repository("someone/clip")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (["best.pth", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["training_args.bin", "optimizer.pt", "best.pth"], ["best.pth"]),
        (["folder/other.pth", "../x.pth", "best.pth"], ["best.pth"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin", "../pytorch_model-00001-of-00001.bin"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ),
    ],
)
def test_weights_are_those_of_the_first_known_name_or_the_only_ones(names, wanted):
    assert weights_of(ANY, names) == wanted


@pytest.mark.parametrize(
    ("repository_name", "names", "told"),
    [
        ("someone/clip", ["a.pth", "b.pt"], "it has a.pth, b.pt. Download the one you want"),
        ("someone/clip", ["README.md"], "it holds no weights of these families"),
        ("GLIPModel/GLIP", ["a.pth", "b.pth"], "its models are pulled by name, glip-tiny or glip-large"),
    ],
)
def test_repository_without_weights_or_with_a_choice_is_told(repository_name, names, told):
    with pytest.raises(HubError, match=f"^{repository_name} has none of model.safetensors, .*: {told}"):
        weights_of(repository(repository_name), names)


def test_official_model_has_its_own_weights_only():
    with pytest.raises(HubError, match=r"has none of glip_large_model.pth: it may have changed"):
        weights_of(OFFICIAL["glip-large"], ["other.pth"])


@pytest.mark.parametrize("names", [["open_clip_model.safetensors"], ["model.safetensors", "open_clip_config.json"]])
def test_config_of_something_else_beside_weights_of_another_program_counts_for_nothing(names):
    check_model_type(ANY, names, {"model_type": "siglip"})


@pytest.mark.parametrize("config", [None, {}, {"model_type": "clip"}, {"model_type": "mm-grounding-dino"}])
def test_models_of_these_families_are_fetched(config):
    check_model_type(ANY, ["model.safetensors"], config)
