"""Which bundle answers, and what keeps bundles from being served."""

import pytest

from server.contract.manifest import BundleError
from server.errors import NotReady, UnknownModel, UnsuitableModel
from server.registry.model_registry import ModelRegistry, open_bundles
from server.settings import Settings
from server.telemetry.metrics import Metrics
from tests.server.fakes import FakeDetector


@pytest.fixture
def load():
    catalogs = []

    def start(*bundles):
        catalogs.append(ModelRegistry(Settings(), Metrics()))
        catalogs[-1].load(bundles)
        return catalogs[-1]

    yield start
    for registry in catalogs:
        registry.close()


@pytest.fixture
def twins(tmp_path):
    return [FakeDetector(tmp_path, name=name) for name in ("first", "second")]


def test_first_that_can_do_the_task_is_the_default(load, encoder, twins):
    registry = load(encoder, *twins)
    assert registry.choose(None, "detect").name == "first"
    assert registry.choose(None, "classify").name == "fake-encoder"


def test_name_chooses(load, twins):
    assert load(*twins).choose("second", "detect").name == "second"


def test_family_chooses_when_there_is_one(load, encoder, detector):
    assert load(encoder, detector).choose("grounding_dino", "detect").name == "fake-detector"


def test_family_of_several_is_refused_with_their_names(load, twins):
    with pytest.raises(UnsuitableModel, match="name one of first, second"):
        load(*twins).choose("grounding_dino", "detect")


def test_no_bundle_for_the_task_is_said(load, encoder):
    with pytest.raises(UnknownModel, match="no bundle that can detect is loaded"):
        load(encoder).choose(None, "detect")


def test_nothing_is_chosen_before_ready():
    with pytest.raises(NotReady):
        ModelRegistry(Settings(), Metrics()).choose(None, "detect")


def test_two_bundles_of_one_name_are_refused(load, tmp_path):
    with pytest.raises(BundleError, match="several bundles are named same"):
        load(FakeDetector(tmp_path, name="same"), FakeDetector(tmp_path, name="same"))


def test_failed_canary_keeps_everything_from_being_served(load, detector, encoder):
    def fail():
        raise BundleError("the canary differs")

    encoder.check_canary = fail
    registry = ModelRegistry(Settings(), Metrics())
    with pytest.raises(BundleError, match="the canary differs"):
        registry.load([detector, encoder])
    assert not registry.ready
    assert registry.models == ()


def test_bundle_is_run_before_ready(load, detector, encoder):
    load(detector, encoder)
    assert detector.runs == encoder.runs == [1]


def test_folder_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundles(Settings(bundle=(tmp_path,)))


def test_missing_bundles_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr("server.registry.model_registry.BUNDLED", tmp_path)
    with pytest.raises(BundleError, match="there is no bundle to serve"):
        open_bundles(Settings())
