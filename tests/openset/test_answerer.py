"""Models of this process and at a server, asked in the same way."""

import argparse
import hashlib
import io

import pytest
from PIL import Image, features

from openset.answerer import NoAnswers, PictureFault, open_answerer
from server.app import create_app
from server.settings import Settings
from tests.server.fakes import FakeDetector, FakeEncoder, picture
from tests.server.listening import listening


def options(**given):
    none = {"url": None, "bundle": None, "model": None, "allow_uncertified": False, "api_key": None}
    return argparse.Namespace(**none | given)


@pytest.fixture
def address(tmp_path):
    app = create_app(Settings(warm_up="none"), [FakeEncoder(tmp_path), FakeDetector(tmp_path)])
    with listening(app) as ((host, port), _):
        yield f"http://{host}:{port}"


@pytest.fixture(params=["in process", "server"])
def opened(request, tmp_path, monkeypatch):
    """Opens the model of a task, in one way and the other."""
    made = []
    address = request.getfixturevalue("address") if request.param == "server" else None
    bundles = {"detect": FakeDetector, "classify": FakeEncoder, "similarity": FakeEncoder}
    monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [bundles[task](tmp_path)])

    def open_for(task, **given):
        made.append(open_answerer(options(url=address, **given), task))
        return made[-1]

    yield open_for
    for answerer in made:
        answerer.close()


def test_tasks_are_answered(opened, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(picture("red", (40, 30)))
    assert opened("detect").name == "fake-detector"
    assert [found.label for found in opened("detect").ask(file, labels=["dog", "cat"]).results[0].detections]
    assert opened("classify").ask(file, labels=["r", "g"]).results[0].scores[0].label == "r"
    assert len(opened("similarity").ask(file, texts=["r", "g"]).similarity[0]) == 2


def test_boxes_have_the_format_that_was_asked_for(opened):
    (found,) = opened("detect").ask(picture(size=(40, 30)), labels=["dog"], box_format="cxcywhn").results[0].detections
    assert found.box[:2] == pytest.approx((0.5, 0.5))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow reads no AVIF here")
def test_own_pictures_are_read_in_all_formats_of_the_installation_unless_settings_name_some(
    opened, request, monkeypatch
):
    if "server" in request.node.callspec.id:
        pytest.skip("a server has formats of its own")
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "AVIF")
    assert opened("detect").ask(stream.getvalue(), labels=["dog"]).results[0].width == 40
    monkeypatch.setenv("OPENSET_IMAGE_FORMATS", "JPEG,PNG")
    with pytest.raises(PictureFault, match="AVIF, which is not read"):
        opened("detect").ask(stream.getvalue(), labels=["dog"])


@pytest.mark.parametrize("data", [b"no picture", b"", picture()[:60], picture(size=(4000, 2))])
def test_picture_that_cannot_be_read_is_its_own_fault(opened, data):
    with pytest.raises(PictureFault):
        opened("detect").ask(data, labels=["dog"])


def test_picture_that_vanished_is_its_own_fault(opened, tmp_path):
    with pytest.raises(PictureFault, match=r"gone\.png"):
        opened("detect").ask(tmp_path / "gone.png", labels=["dog"])


def test_request_that_no_picture_can_have_is_the_models_fault(opened):
    with pytest.raises(NoAnswers, match="box_threshold"):
        opened("detect").ask(picture(), labels=["dog"], box_threshold=7.0)


def test_model_of_another_task_is_refused_and_those_of_this_one_named(opened):
    told = r"no model 'fake-encoder' that can detect; there are: fake-detector; openset models"
    with pytest.raises(NoAnswers, match=told):
        opened("detect", model="fake-encoder")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "localhost"])
def test_server_that_is_not_there_is_one_sentence(address):
    with pytest.raises(NoAnswers, match=address):
        open_answerer(options(url=address), "detect")


def test_server_that_asks_for_a_key_is_told_with_the_way_to_give_one(tmp_path):
    (tmp_path / "keys.txt").write_text(f"ann {hashlib.sha256(b'another').hexdigest()}\n")
    app = create_app(Settings(warm_up="none", api_keys_file=tmp_path / "keys.txt"), [FakeDetector(tmp_path)])
    with listening(app) as ((host, port), _), pytest.raises(NoAnswers, match="give it by --api-key or OPENSET_API_KEY"):
        open_answerer(options(url=f"http://{host}:{port}"), "detect")
