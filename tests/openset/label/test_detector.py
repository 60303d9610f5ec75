"""The detector of a job: what is asked of a picture, and its result."""

import argparse
from contextlib import closing

import pytest

from openset.answerer import NoAnswers, open_answerer
from openset.label.detector import ModelDetector
from openset.sources import MediaFile
from tests.server.fakes import FakeDetector, picture

REQUEST = {"labels": ["dog", "cat"]}


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [FakeDetector(tmp_path)])
    args = argparse.Namespace(url=None, bundle=None, model=None, allow_uncertified=False)
    with closing(open_answerer(args, "detect")) as made:
        yield made


def source(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    return MediaFile(tmp_path / "a.png", "in/a.png")


def test_picture_has_its_size_and_detections(model, tmp_path):
    result = ModelDetector(model, REQUEST).label(source(tmp_path, picture(size=(40, 30))))
    assert (result.image, result.width, result.height, result.error) == ("in/a.png", 40, 30, None)
    assert [(found.label, found.label_id) for found in result.detections] == [("dog", 0), ("cat", 1)]


@pytest.mark.parametrize("data", [b"no picture", b"", picture()[:60], picture(size=(4000, 2))])
def test_picture_that_cannot_be_read_is_a_result_with_the_reason(model, tmp_path, data):
    result = ModelDetector(model, REQUEST).label(source(tmp_path, data))
    assert result.error
    assert result.detections == []


def test_request_that_fails_for_every_picture_ends_the_job(model, tmp_path):
    with pytest.raises(NoAnswers, match="box_threshold"):
        ModelDetector(model, {**REQUEST, "box_threshold": 7.0}).label(source(tmp_path, picture()))
