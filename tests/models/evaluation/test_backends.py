"""Backends: the bundle in this process and the server over HTTP answer alike, and refuse with one sentence."""

import argparse
import io

import pytest
from PIL import Image

from models.evaluation.backends import BackendError, HttpBackend, InProcessBackend, open_backend
from server.registry.model_registry import BUNDLED

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
