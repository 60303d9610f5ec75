"""Backends: the bundle in this process and the server over HTTP answer alike, and refuse with one sentence."""

import argparse
import io

import pytest
from PIL import Image

from models.evaluation.backends import Backend, BackendError, HttpBackend, InProcessBackend, RecordRefused, open_backend
from openset.errors import Problem, ProblemError
from server.registry.model_cache import BUNDLED
from tests.benchmarks.live_server import serving

CLIP, DETECTOR = BUNDLED / "clip-mini", BUNDLED / "grounding-dino-mini"


@pytest.fixture(scope="module")
def picture():
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "PNG")
    return file.getvalue()


def test_encoder_classifies_and_embeds(picture):
    args = argparse.Namespace(url=None, bundle=[CLIP], model=None, allow_uncertified=False)
    with open_backend(args, task="classify") as backend:
        assert (backend.model.name, backend.model.tasks) == ("clip-mini", ("classify", "similarity"))
        assert {score.label for score in backend.classify(picture, ["red", "blue"])} == {"red", "blue"}
        found = backend.embed(picture, ["red"])
        assert len(found.images) == len(found.texts) == 1


def test_detector_answers_more_labels_than_a_server_takes(picture):
    backend = InProcessBackend([DETECTOR], None, task="detect")
    labels = [f"thing {number}" for number in range(40)]
    try:
        result = backend.detect(picture, labels, box_threshold=0.0, max_detections=3)
        assert result.labels == labels
        assert backend.model.box_threshold == backend.model.defaults["box_threshold"]
        with pytest.raises(BackendError, match="the image is not a picture"):
            backend.detect(b"text", ["a dog"])
    finally:
        backend.close()


def test_model_that_cannot_do_the_task_is_refused_with_those_there_are():
    with pytest.raises(BackendError, match=r"no model can classify; there are \['grounding-dino-mini \(detect\)'\]"):
        InProcessBackend([DETECTOR], None, task="classify")


@pytest.mark.parametrize("url", ["nonsense", "http://openset.example"])
def test_server_that_cannot_be_asked_is_a_backend_error(monkeypatch, url):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(BackendError, match=url):
        HttpBackend(url, None, task="detect")


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """The bundled detector in this process, and over HTTP."""
    with serving(tmp_path_factory.mktemp("server"), "--bundle", str(DETECTOR)) as live:
        both: list[Backend] = [
            InProcessBackend([DETECTOR], None, task="detect"),
            HttpBackend(live.url, None, task="detect"),
        ]
        yield both
        for backend in both:
            backend.close()


def animated() -> bytes:
    file, frames = io.BytesIO(), [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


REFUSED = [
    (animated(), ["a dog"], "broken image"),
    (b"text", ["a dog"], "unsupported image"),
    (b"", ["a dog"], "broken image"),
    (None, [" "], "invalid request"),
    (None, ["a dog " * 300], "invalid request"),
    (None, ["dog " * 250], "prompt too long"),
]


@pytest.mark.parametrize(("image", "labels", "kind"), REFUSED, ids=lambda value: str(value)[:20])
def test_an_image_or_a_text_that_is_refused_is_the_records_fault(detectors, picture, image, labels, kind):
    for backend in detectors:
        with pytest.raises(RecordRefused) as refused:
            backend.detect(picture if image is None else image, labels)
        assert refused.value.kind == kind


@pytest.mark.parametrize(
    ("status", "kind"), [(413, "body too large"), (429, None), (500, None), (503, None), (401, None), (404, None)]
)
def test_only_a_size_that_a_proxy_refuses_is_the_records_fault(detectors, picture, monkeypatch, status, kind):
    def refuse(*arguments, **options):
        raise ProblemError(Problem(type="about:blank", title="Refused", status=status, detail=""))

    monkeypatch.setattr(detectors[1]._client, "detect", refuse)
    with pytest.raises(BackendError) as refused:
        detectors[1].detect(picture, ["a dog"])
    assert getattr(refused.value, "kind", None) == kind
