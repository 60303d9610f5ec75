"""The recipe "Add a family" of models/README.md: a folder, a record and an export file are all that a family needs."""

import io

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from export.bundle import export_bundle
from export.certificate.verify import verify
from export.progress import Progress
from models import registry, tokenizers
from models.family import Family, lazy
from server.app import create_app
from server.bundle import Bundle
from server.settings import Settings
from tests.models.toy_family import weights
from tests.models.toy_family.config import ToyConfig
from tests.models.toy_family.model import Toy
from tests.models.toy_family.serving import serving_rules

TOY = Family(
    name="toy",
    config=ToyConfig,
    model=Toy,
    vocabulary="bert_wordpiece",
    weights=weights,
    serving=serving_rules,
    graphs=lazy("tests.models.toy_family.graphs:graphs"),
)


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.FAMILIES, TOY.name, TOY)
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published checkpoint of the family, recognised by its keys."""
    torch.manual_seed(0)
    tensors = Toy(ToyConfig(vocab_size=30522)).state_dict()
    file = tmp_path_factory.mktemp("published") / "toy.pth"
    torch.save({f"toy.{key}": value for key, value in tensors.items()}, file)
    return file


@pytest.fixture(scope="module")
def bundle(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "toy"
    export_bundle(published, out)
    return out


def test_published_checkpoint_loads_and_comes_back_from_a_folder_of_ours(published, tmp_path):
    loaded = registry.load(published)
    assert (loaded.family, loaded.variant, loaded.container, loaded.licence) == ("toy", "toy-1", "toyshop", "unknown")
    file = tokenizers.standard_file(TOY.vocabulary)
    folder = registry.save(tmp_path / "own", loaded.model, loaded.config, tokenizer_file=file, name="own")
    again = registry.load(folder)
    assert (again.family, again.config) == ("toy", loaded.config)
    assert torch.equal(again.model.colours.weight, loaded.model.colours.weight)


def test_bundle_is_certified_and_verified(bundle):
    opened = Bundle(bundle)
    assert (opened.manifest.family, opened.uncertified) == ("toy", {})
    report = verify(bundle, Progress(quiet=True))
    assert (report.faults, sorted(report.figures)) == ((), ["image_encoder", "text_encoder"])


def test_bundle_serves_over_http(bundle):
    image = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(image, "PNG")
    app = create_app(Settings(decode_threads=1, warm_up="none"), [Bundle(bundle)])
    with TestClient(app) as client:
        answer = client.post(
            "/classify", files={"image": image.getvalue()}, data={"labels": ["dog", "cat"], "model": "toy"}
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"]["family"] == "toy"
    assert {entry["label"] for entry in answer.json()["results"][0]["scores"]} == {"dog", "cat"}
