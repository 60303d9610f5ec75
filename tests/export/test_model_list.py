"""The list of models: bundled, pulled, and official ones."""

import json
import shutil

import pytest

from export.templates.template import read_template, template_file
from models.model_zoo import OFFICIAL
from server.__main__ import main
from server.contract.manifest import read_manifest, write_manifest
from server.registry.model_cache import BUNDLED, bundle_name, bundles_of, pulled_bundle, with_models
from server.settings import Settings


def listed(cache, capsys):
    assert main(["models", "--json", "--cache-dir", str(cache)]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)}


def test_bundled_and_official_models_are_listed_with_what_they_need(tmp_path, capsys):
    models = listed(tmp_path, capsys)
    bundled = {read_manifest(file.parent).name for file in BUNDLED.glob("*/manifest.json")}
    assert models.keys() == bundled | OFFICIAL.keys()
    assert {model["state"] for name, model in models.items() if name in bundled} == {"bundled"}
    assert {model["state"] for name, model in models.items() if name in OFFICIAL} == {"to be pulled"}
    assert all(model["licence"] and model["tasks"] and model["extra"] for model in models.values())


@pytest.mark.parametrize("name", ["clip-vit-base-patch32", "clip-vit-base-patch32-datacomp"])
def test_size_of_an_official_model_is_that_of_its_weights(tmp_path, capsys, name):
    template = read_template(template_file(name)).template
    weights = sum(one.nbytes for part in template.parts for one in part.initializers)
    assert listed(tmp_path, capsys)[name]["bytes"] == weights


def test_pulled_model_is_listed_and_found_by_its_name(tmp_path, capsys, monkeypatch):
    folder = pulled_bundle(tmp_path, "grounding-dino-tiny")
    shutil.copytree(next(BUNDLED.glob("grounding-dino*")), folder)
    found = listed(tmp_path, capsys)["grounding-dino-tiny"]
    assert (found["state"], found["folder"]) == ("pulled", str(folder))
    monkeypatch.setenv("OPENSET_CACHE_DIR", str(tmp_path))
    assert bundles_of("grounding-dino-tiny", ()) == (folder,)
    assert bundles_of("grounding-dino-base", ()) == ()
    assert bundles_of("grounding-dino-tiny", (tmp_path,)) == (tmp_path,)
    assert bundles_of("../bundles/grounding-dino-tiny", ()) == ()


@pytest.mark.parametrize("name", ["laion/CLIP-ViT-B-32", "laion/CLIP-ViT-B-32@v1.0"])
def test_pulled_repository_is_listed_by_the_name_that_every_command_takes(name, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(BUNDLED / "clip-mini", pulled_bundle(tmp_path, name))
    source = f"hf://{name.partition('@')[0]}@{'0' * 40}"
    write_manifest(folder, read_manifest(folder).model_copy(update={"name": bundle_name(name), "source": source}))
    found = listed(tmp_path, capsys)[name]
    assert (found["state"], found["folder"], found["licence"]) == ("pulled", str(folder), "Apache-2.0")
    assert Settings(model=[name], cache_dir=tmp_path).model == (name,)
    assert with_models(Settings(model=[name], cache_dir=tmp_path)).bundle == (folder,)
    monkeypatch.setenv("OPENSET_CACHE_DIR", str(tmp_path))
    picture = str(BUNDLED.parent / "examples/dog.jpg")
    assert main(["classify", picture, "--labels", "dog,cat", "--model", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["name"] == bundle_name(name)


def test_bundle_of_another_origin_among_the_pulled_ones_is_listed_by_its_folder(tmp_path, capsys):
    shutil.copytree(BUNDLED / "clip-mini", tmp_path / "bundles/mine")
    assert listed(tmp_path, capsys)["mine"]["state"] == "pulled"


def test_table_has_a_line_for_each_model(tmp_path, capsys):
    assert main(["models", "--cache-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["name", "for", "size", "licence", "needs"]
    assert any("openset pull grounding-dino-tiny" in line and "MB" in line for line in lines)
