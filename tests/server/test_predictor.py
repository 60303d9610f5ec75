"""The predictor: the endpoints' answers in this process, or the problem, for every request."""

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from server.contract.text import PromptTooLong
from server.errors import BrokenImage, InvalidRequest, NotReady, UnknownModel, UnsuitableModel, UnsupportedImage
from server.predictor import Predictor
from server.settings import Settings
from tests.server.fakes import picture


@pytest.fixture
def opened(monkeypatch, detector, encoder):
    def fakes(settings, *, task=None):
        return [bundle for bundle in (detector, encoder) if task is None or task in bundle.tasks]

    monkeypatch.setattr("server.predictor.open_bundles", fakes)


@pytest.fixture
def predictor(opened):
    with Predictor() as predictor:
        yield predictor


def boxes(answer):
    return [[found.box for found in result.detections] for result in answer.results]


def test_detection_is_the_endpoints(predictor, client):
    answer = predictor.detect(picture("red", (200, 150)), ["dog", "cat"], box_threshold=0.85, box_format="xywhn")
    fields = {"labels": ["dog", "cat"], "box_threshold": 0.85, "box_format": "xywhn"}
    response = client.post("/detect", files=[("image", picture("red", (200, 150)))], data=fields)
    assert answer.model_dump(mode="json", exclude={"timings_ms"}, exclude_none=True) == {
        name: value for name, value in response.json().items() if name != "timings_ms"
    }
    assert answer.timings_ms.keys() == response.json()["timings_ms"].keys()


def test_image_is_a_path_bytes_or_a_pil_image(predictor, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(picture("red", (200, 150)))
    image = Image.open(path)
    answer = predictor.detect([path, str(path), path.read_bytes(), image], prompt="a dog.")
    first, *others = boxes(answer)
    assert first
    assert others == [first] * 3


def test_pil_image_is_turned_upright_as_its_file_is(predictor):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (200, 100), "red").save(file, "JPEG", exif=exif)
    image = Image.open(file)
    for given in (file.getvalue(), image):
        (result,) = predictor.detect(given, ["dog"]).results
        assert (result.width, result.height) == (100, 200)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pil_image_of_any_mode_is_read(predictor, mode):
    assert predictor.classify(Image.new(mode, (20, 20)), ["r", "g"]).results


def test_classification_and_similarity(predictor):
    scores = predictor.classify(picture("lime"), ["r", "g"], templates=["a {}"], top_k=1).results[0].scores
    assert [score.label for score in scores] == ["g"]
    answer = predictor.similarity([picture("red"), picture("lime")], ["r", "g"], embeddings=True)
    assert answer.similarity[0][0] > answer.similarity[0][1]
    assert len(answer.embeddings.images) == 2


def test_drawing_returns_the_answer_and_a_png(predictor):
    answer, png = predictor.detect_drawn(picture("red", (200, 150)), ["dog"])
    assert boxes(answer)[0]
    assert Image.open(io.BytesIO(png)).size == (200, 150)


@pytest.mark.parametrize(
    ("ask", "problem", "named"),
    [
        (lambda p: p.detect("missing.png", ["dog"]), BrokenImage, "missing.png cannot be read: No such file"),
        (lambda p: p.detect(b"text", ["dog"]), UnsupportedImage, "the image is not a picture"),
        (lambda p: p.detect(Image.new("HSV", (9, 9)), ["dog"]), BrokenImage, "cannot be encoded"),
        (lambda p: p.detect(picture(), []), InvalidRequest, "either 'prompt' or 'labels'"),
        (lambda p: p.detect(picture(), ["dog"], treshold=0.3), InvalidRequest, "treshold: there is no such field"),
        (lambda p: p.detect(picture(), ["dog"], model="yolo"), UnknownModel, "there is no model 'yolo'"),
        (lambda p: p.classify(picture(), ["dog"], model="fake-detector"), UnsuitableModel, "cannot classify"),
        (lambda p: p.similarity(picture(), ["word" * 20]), PromptTooLong, "tokens"),
    ],
)
def test_request_without_an_answer_raises_its_problem(predictor, ask, problem, named):
    with pytest.raises(problem, match=named):
        ask(predictor)


def test_image_is_an_open_file_or_an_array(predictor, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    with (tmp_path / "a.png").open("rb") as file:
        answer = predictor.detect([file, io.BytesIO(picture()), pixels], ["dog"])
    assert len({result.model_dump_json() for result in answer.results}) == 1


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((2, 2)), "an array must be uint8"),
        ("https://example.com/a.png", "is a URL"),
        (7, "an open file"),
    ],
)
def test_what_is_no_image_is_told(predictor, image, told):
    with pytest.raises(InvalidRequest) as refusal:
        predictor.detect(image, ["dog"])
    assert told in str(refusal.value)


def test_file_opened_as_text_is_told(predictor):
    with pytest.raises(BrokenImage, match="gives str, not bytes"):
        predictor.detect(io.StringIO("x"), ["dog"])


@pytest.mark.parametrize("kind", ["pipe", "device", "open device"])
def test_what_may_have_no_end_is_refused(predictor, tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    with open("/dev/zero", "rb") as device:
        image = {"pipe": tmp_path / "pipe", "device": "/dev/zero", "open device": device}[kind]
        with pytest.raises(BrokenImage, match=r"no regular file|no end"):
            predictor.detect(image, ["dog"])


def test_each_yields_answers_and_problems_in_order(predictor, tmp_path):
    images = [picture("red"), b"text", tmp_path / "missing.png", picture("white"), picture("red")]
    outcomes = list(predictor.each({"images": image, "labels": ["dog"]} for image in images))
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "DetectAnswer", "UnsupportedImage", "BrokenImage", "DetectAnswer", "DetectAnswer",
    ]  # fmt: skip
    assert boxes(outcomes[0]) == boxes(outcomes[4]) != boxes(outcomes[3])


@pytest.mark.parametrize(("task", "texts"), [("classify", "labels"), ("similarity", "texts")])
def test_each_runs_any_task(predictor, task, texts):
    (answer,) = predictor.each([{"images": picture(), texts: ["r"]}], task=task)
    assert answer == getattr(predictor, task)(picture(), ["r"]).model_copy(update={"timings_ms": answer.timings_ms})


@pytest.mark.parametrize("good", [True, False])
def test_each_reads_only_so_many_requests_ahead(opened, good):
    read = []

    def requests():
        for number in range(100):
            read.append(number)
            yield {"images": picture() if good else b"text", "labels": ["dog"]}

    with Predictor(max_batch=2) as predictor:
        outcomes = predictor.each(requests())
        for count in range(1, 10):
            next(outcomes)
            assert len(read) <= count + 4


def test_each_takes_requests_larger_than_its_bound(opened):
    with Predictor(max_batch=1) as predictor:
        requests = [{"images": [picture()] * 5, "labels": ["dog"]}] * 3
        assert [len(answer.results) for answer in predictor.each(requests)] == [5, 5, 5]


def test_each_that_is_left_early_drops_what_waits(predictor, detector):
    outcomes = predictor.each({"images": picture(), "labels": ["dog"]} for _ in range(100))
    next(outcomes)
    outcomes.close()
    assert predictor.detect(picture(), ["dog"]).results
    assert sum(detector.runs) < 100


def test_threads_share_the_predictor_and_its_batches(opened, detector):
    running, gate = threading.Event(), threading.Event()
    detector.before_run = lambda: (running.set(), gate.wait(20))
    with Predictor(max_batch=8) as predictor, ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(predictor.detect, picture(), ["dog"])]
        assert running.wait(20)
        asked += [threads.submit(predictor.detect, picture(), ["dog"]) for _ in range(8)]
        queue = predictor._service.registry.models[0].batcher._queue
        give_up = time.monotonic() + 20
        while len(queue) < 8 and time.monotonic() < give_up:
            time.sleep(0.01)
        gate.set()
        assert len({tuple(boxes(future.result())[0]) for future in asked}) == 1
    assert detector.runs == [1, 8]


def test_models_are_the_manifests_of_the_bundles(predictor, opened):
    assert [manifest.name for manifest in predictor.models] == ["fake-detector", "fake-encoder"]
    with Predictor(task="classify") as single:
        assert [manifest.name for manifest in single.models] == ["fake-encoder"]


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.1])
def test_predictor_closed_by_another_thread_leaves_no_caller_waiting(opened, delay_s):
    predictor, outcomes = Predictor(), []

    def classify():
        while True:
            try:
                predictor.classify([picture()] * 4, ["dog", "cat"])
            except Exception as error:
                outcomes.append(error)
                return

    callers = [threading.Thread(target=classify, daemon=True) for _ in range(6)]
    for caller in callers:
        caller.start()
    time.sleep(delay_s)
    predictor.close()
    for caller in callers:
        caller.join(10)
    assert [str(error) for error in outcomes] == ["the predictor is closed"] * 6
    assert {type(error) for error in outcomes} == {NotReady}


@pytest.mark.parametrize("fields", [{}, {"images": None}, {"images": 5}, {"images": [object()]}])
def test_each_goes_on_behind_a_request_without_an_image(predictor, fields):
    first, second = predictor.each([{"labels": ["dog"], **fields}, {"labels": ["dog"], "images": picture()}])
    assert isinstance(first, InvalidRequest)
    assert len(second.results) == 1


def test_closed_predictor_says_so_and_may_be_closed_again(opened):
    predictor = Predictor(Settings(warm_up="none"))
    predictor.close()
    predictor.close()
    with pytest.raises(NotReady, match="the predictor is closed"):
        predictor.detect(picture(), ["dog"])


def test_settings_come_from_one_side():
    with pytest.raises(TypeError, match="either settings or device, not both"):
        Predictor(Settings(), device="cpu")


def test_bundle_that_cannot_be_opened_ends_the_threads(tmp_path):
    with pytest.raises(Exception, match=r"manifest\.json"):
        Predictor(bundle=[tmp_path])
    assert "predictor" not in {thread.name for thread in threading.enumerate()}
