import pytest

from openset.label.detector import DetectorError, InProcessDetector, ServerDetector
from openset.label.sources import MediaFile
from server.app import create_app
from server.settings import Settings
from tests.server.fakes import FakeDetector, FakeEncoder, picture
from tests.server.listening import listening

REQUEST = {"labels": ["dog", "cat"]}


@pytest.fixture
def address(tmp_path):
    app = create_app(Settings(warm_up="none"), [FakeEncoder(tmp_path), FakeDetector(tmp_path)])
    with listening(app) as ((host, port), _):
        yield f"http://{host}:{port}"


@pytest.fixture(params=["in process", "server"])
def detector(request, tmp_path, monkeypatch):
    if request.param == "server":
        made = ServerDetector(request.getfixturevalue("address"), None, None, REQUEST)
    else:
        monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [FakeDetector(tmp_path)])
        made = InProcessDetector((), None, REQUEST)
    yield made
    made.close()


def source(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    return MediaFile(tmp_path / "a.png", "in/a.png")


def test_picture_has_its_size_and_detections(detector, tmp_path):
    assert detector.name == "fake-detector"
    result = detector.label(source(tmp_path, picture(size=(40, 30))))
    assert (result.image, result.width, result.height, result.error) == ("in/a.png", 40, 30, None)
    assert [(found.label, found.label_id) for found in result.detections] == [("dog", 0), ("cat", 1)]


@pytest.mark.parametrize("data", [b"no picture", b"", picture()[:60], picture(size=(4000, 2))])
def test_picture_that_cannot_be_read_is_a_result_with_the_reason(detector, tmp_path, data):
    result = detector.label(source(tmp_path, data))
    assert result.error
    assert result.detections == []


def test_picture_that_vanished_is_a_result_with_the_reason(detector, tmp_path):
    assert detector.label(MediaFile(tmp_path / "gone.png", "gone.png")).error


def test_request_that_fails_for_every_picture_ends_the_job(tmp_path, address):
    detector = ServerDetector(address, None, None, {"labels": ["dog"], "box_threshold": 7.0})
    with pytest.raises(DetectorError, match="box_threshold"):
        detector.label(source(tmp_path, picture()))


def test_model_that_is_no_detector_is_refused_and_the_detectors_named(address):
    with pytest.raises(DetectorError, match="'fake-encoder'; there are: fake-detector"):
        ServerDetector(address, None, "fake-encoder", REQUEST)


def test_server_that_is_not_there_is_one_sentence():
    with pytest.raises(DetectorError, match=r"127\.0\.0\.1:9"):
        ServerDetector("http://127.0.0.1:9", None, None, REQUEST)
