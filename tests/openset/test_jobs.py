"""Jobs of both clients: a scripted server for waits and errors, and the real app for answers."""

import itertools

import httpx
import pytest

from openset import Client, ClientError, DetectAnswer, ProblemError
from openset.jobs import waits
from server.app import create_app
from server.settings import Settings
from tests.server.fakes import FakeDetector, FakeEncoder, picture
from tests.server.listening import listening

from .conftest import models_answer, problem

JOB = {"id": "abc", "endpoint": "/detect", "images": 2, "created_at": "2026-11-30T06:00:00Z"}


def state(name, done=0, **more):
    return {**JOB, "state": name, "images_done": done, **more}


def server_of(*states, result=None, accepts=None):
    """A server whose job has these states, one at each look."""
    following = itertools.chain(states, itertools.repeat(states[-1]))

    def serve(request):
        if request.url.path == "/models":
            return models_answer()
        if request.method == "POST":
            return accepts(request) if accepts else httpx.Response(202, json=state("queued"))
        if request.url.path.endswith("/result"):
            return result or problem(409)
        return httpx.Response(200, json=next(following))

    return serve


def test_result_waits_longer_each_time_and_tells_the_progress(connect, clock):
    model = {"name": "fake", "family": "grounding_dino", "version": "1"}
    row = {"width": 1, "height": 1, "labels": ["dog"], "detections": []}
    answer = {"model": model, "results": [row, row], "timings_ms": {}}
    states = [state("queued"), state("running", 1), state("running", 1), state("succeeded", 2)]
    client = connect(server_of(*states, result=httpx.Response(200, json=answer)))
    told = []
    job = client.submit([picture(), picture()], labels=["dog"], progress=lambda *done: told.append(done))
    assert len(client.result(job).results) == 2
    assert told == [(0, 2), (1, 2), (1, 2), (2, 2)]
    assert clock.slept == sorted(clock.slept)
    assert len(clock.slept) == 3


def test_result_of_a_job_that_does_not_end_in_time_is_the_servers_conflict(connect, clock):
    with pytest.raises(ProblemError, match="409"):
        connect(server_of(state("running"))).result("abc", wait_s=3)
    assert sum(clock.slept) == pytest.approx(3)


def test_problem_of_a_job_names_the_path_of_its_image(connect, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(picture())
    broken = problem(422, index=1, detail="image 2 of 2 is damaged")
    client = connect(server_of(state("failed", 1), result=broken))
    with pytest.raises(ProblemError) as caught:
        client.result(client.submit(paths, labels=["dog"]))
    assert caught.value.image == str(paths[1])
    assert caught.value.detail == f"{paths[1]} is damaged"


def test_images_that_are_too_many_for_one_request_are_refused_before_they_are_sent(connect):
    client = connect(server_of(state("queued"), accepts=lambda request: pytest.fail("it was sent")))
    with pytest.raises(ClientError, match="submit several jobs"):
        client.submit([picture(), "https://a.example/b.png"], labels=["dog"])
    with pytest.raises(ValueError, match="a task is detect"):
        client.submit([picture()], task="paint", labels=["dog"])


def test_waits_add_up():
    assert sum(waits(7.5)) == pytest.approx(7.5)
    assert list(waits(0)) == []
    assert max(itertools.islice(waits(None), 50)) == 2.0


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    app = create_app(Settings(decode_threads=1, max_images=4), [FakeDetector(folder), FakeEncoder(folder)])
    with listening(app) as ((host, port), _), Client(f"http://{host}:{port}") as client:
        yield client


def test_job_has_the_answer_of_the_method_and_paths_of_bad_images(client, tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(picture() if number != 6 else b"no picture")
    paths = [tmp_path / "gone.png", *sorted(tmp_path.glob("*.png"))]
    options = {"labels": ["a dog", "a, b"], "on_error": "skip"}
    answer, job = client.detect(paths, **options), client.submit(paths, **options)
    for _ in range(2):
        done = client.result(job)
        assert done.model_copy(update={"timings_ms": {}}) == answer.model_copy(update={"timings_ms": {}})
    assert [each.image for each in done.problems] == [str(paths[0]), str(tmp_path / "6.png")]
    fetched = client.result(job.id)
    assert isinstance(fetched, DetectAnswer)
    assert len(fetched.results) == 10


@pytest.mark.parametrize("task", ["classify", "similarity", "embed"])
def test_job_of_every_task_has_its_answer(client, task):
    fields = {"labels": ["r", "g"]} if task == "classify" else {"texts": ["r", "g"]}
    answer = client.result(client.submit([picture()] * 6, task=task, **fields))
    assert type(answer).__name__ == f"{task.capitalize()}Answer"
    assert answer.model.name == "fake-encoder"


def test_job_is_listed_until_it_is_cancelled(client):
    job = client.submit([picture()], labels=["dog"])
    assert job.id in [each.id for each in client.jobs()]
    assert client.job(job).id == job.id
    client.cancel(job)
    assert job.id not in [each.id for each in client.jobs()]
    for ask in (client.job, client.result, client.cancel):
        with pytest.raises(ProblemError) as caught:
            ask(job)
        assert (caught.value.status, caught.value.type) == (404, "urn:openset:problem:unknown-job")
