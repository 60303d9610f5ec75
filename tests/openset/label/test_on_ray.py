"""Workers that are actors, with the model in this process; real actors are in tests/cluster."""

import argparse
import sys
from typing import Any

import fsspec
import pytest

from openset.answerer import NoAnswers
from openset.label.on_ray import LabelActor, LoadedPicture, RayWorker, ray_pool
from openset.label.worker_pool import WorkerEnded
from openset.sources import MediaFile, find_sources
from server.__main__ import main
from tests.server.fakes import FakeDetector, picture

OPTIONS = argparse.Namespace(url=None, bundle=[], model=None, allow_uncertified=False)


class DirectActor:
    """An actor without a process; it keeps what was sent."""

    def __init__(self, held, error=None):
        self.held, self.error, self.sent, self.stopped = held, error, [], False

    def call(self, method, *given):
        self.sent.append(given)
        if self.error:
            raise self.error
        return getattr(self.held, method)(*given)

    def stop(self):
        self.stopped = True


@pytest.fixture
def actor(tmp_path, monkeypatch):
    monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [FakeDetector(tmp_path)])
    cluster: Any = type(sys)("server.cluster.actors")
    cluster.within_actor = lambda settings: settings.model_copy(update={"threads": 1})
    cluster.ActorEnded = type("ActorEnded", (Exception,), {})
    monkeypatch.setitem(sys.modules, "server.cluster.actors", cluster)
    made = LabelActor(OPTIONS, {"labels": ["dog", "cat"]})
    yield DirectActor(made)
    if hasattr(made, "_detector"):
        made._detector._model.close()


def test_picture_of_this_machine_is_sent_as_bytes(actor, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(size=(40, 30)))
    worker = RayWorker(actor)
    assert worker.ready().name == "fake-detector"
    result = worker.label(MediaFile(tmp_path / "a.png", "in/a.png"))
    assert (result.image, result.width, result.height, len(result.detections)) == ("in/a.png", 40, 30, 2)
    assert isinstance(actor.sent[-1][0], LoadedPicture)


def test_picture_at_an_address_is_read_by_the_actor(actor):
    fsspec.filesystem("memory").pipe("/bucket/a.png", picture(size=(40, 30)))
    (source,) = find_sources(["memory://bucket/a.png"]).files
    worker = RayWorker(actor)
    worker.ready()
    assert worker.label(source).width == 40
    assert actor.sent[-1] == (source,)


def test_missing_file_is_a_result_and_needs_no_actor(actor, tmp_path):
    result = RayWorker(actor).label(MediaFile(tmp_path / "gone.png", "gone.png"))
    assert result.error == "gone.png cannot be read: No such file or directory"
    assert actor.sent == []


def test_lost_process_is_a_lost_worker(actor):
    actor.error = sys.modules["server.cluster.actors"].ActorEnded("killed")
    with pytest.raises(WorkerEnded, match="killed"):
        RayWorker(actor).ready()
    RayWorker(actor).stop()
    assert actor.stopped


def test_job_without_ray_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "server.cluster.actors", raising=False)
    with pytest.raises(NoAnswers, match=r"--ray needs ray: .*cluster"), ray_pool(OPTIONS, {}):
        pass


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--ray", "auto", "--url", "http://localhost:8000"],
            "--ray runs the models on a cluster",
        ),
        (["--actors", "2"], "--actors are of --ray ADDRESS"),
    ],
)
def test_options_that_exclude_each_other_are_refused(tmp_path, capsys, options, reason):
    assert main(["label", str(tmp_path), "--labels", "dog", "--out", str(tmp_path / "out"), *options]) == 2
    assert reason in capsys.readouterr().err
