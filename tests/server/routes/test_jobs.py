"""Jobs over HTTP: the bodies and the answers of the endpoints, at another time."""

import base64
import time
from typing import Any

import pytest

from tests.server.fakes import picture
from tests.server.routes.test_partial_success import rows

IMAGES = [picture(colour, size) for colour, size in [("red", (40, 30)), ("lime", (30, 40)), ("blue", (50, 30))] * 7]
FIELDS: dict[str, dict[str, Any]] = {
    "/detect": {"labels": ["dog", "cat"]},
    "/classify": {"labels": ["r", "g"]},
    "/similarity": {"texts": ["r", "g"], "embeddings": True},
    "/embed": {"texts": ["r"]},
}


def ended(client, response):
    assert response.status_code == 202, response.text
    until = time.monotonic() + 20
    while time.monotonic() < until:
        state = client.get(response.headers["Location"])
        if state.json()["state"] in ("succeeded", "failed"):
            return state.json()
        assert state.headers["Retry-After"] == "1"
        time.sleep(0.01)
    raise AssertionError("the job does not end")


def untimed(answer):
    return {name: value for name, value in answer.items() if name != "timings_ms"}


@pytest.mark.parametrize("path", FIELDS)
def test_job_of_many_images_has_the_answer_of_one_request(start, path):
    client = start(max_images=4)
    files = [("image", ("a.png", image)) for image in [*IMAGES[:20], b"no picture", IMAGES[20]]]
    fields = {**FIELDS[path], "on_error": "skip"}
    response = client.post(f"/jobs{path}", files=files, data=fields)
    state = ended(client, response)
    assert (state["state"], state["endpoint"], state["images"], state["images_done"]) == ("succeeded", path, 22, 22)
    answer = client.get(f"/jobs/{state['id']}/result").json()
    whole = start(max_images=32).post(path, files=files, data=fields).json()
    assert untimed(answer) == untimed(whole)
    assert len(rows(path, answer)) == 22
    (problem,) = answer["problems"]
    assert problem["index"] == 20
    assert problem["detail"].startswith("image 21 of 22")


@pytest.mark.parametrize("path", FIELDS)
def test_json_and_one_image_as_the_body_make_jobs_too(client, path):
    image = base64.b64encode(IMAGES[0]).decode()
    as_json = client.post(f"/jobs{path}", json={"images": [image, "???"], **FIELDS[path], "on_error": "skip"})
    raw = client.post(f"/jobs{path}", params=FIELDS[path], content=IMAGES[0], headers={"Content-Type": "image/png"})
    assert ended(client, as_json)["state"] == ended(client, raw)["state"] == "succeeded"
    assert len(client.get(f"{raw.headers['Location']}/result").json()[
        {"/similarity": "similarity", "/embed": "images"}.get(path, "results")]) == 1  # fmt: skip


def test_texts_alone_are_a_job(client):
    state = ended(client, client.post("/jobs/embed", json={"texts": ["r"]}))
    assert client.get(f"/jobs/{state['id']}/result").json()["images"] == []


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"labels": []}, 422, "invalid-request"),
        ({"labels": ["dog"], "model": "none"}, 404, "unknown-model"),
        ({"labels": ["dog"], "model": "fake-encoder"}, 422, "unsuitable-model"),
        ({"labels": ["dog"], "image": None, "image_url": "https://a.example/b"}, 422, "url-refused"),
    ],
)
def test_request_that_could_not_be_answered_is_no_job(client, fields, status, kind):
    body = {"image": base64.b64encode(IMAGES[0]).decode()} | fields
    response = client.post("/jobs/detect", json={name: value for name, value in body.items() if value is not None})
    assert (response.status_code, response.json()["type"]) == (status, f"urn:openset:problem:{kind}")
    assert client.get("/jobs").json() == {"jobs": []}


def test_answer_before_the_end_is_a_conflict_that_says_how_far_it_is(client, detector):
    detector.before_run = lambda: time.sleep(0.3)
    image = base64.b64encode(IMAGES[0]).decode()
    response = client.post("/jobs/detect", json={"image": image, "labels": ["dog"]})
    early = client.get(f"{response.headers['Location']}/result")
    assert (early.status_code, early.json()["type"]) == (409, "urn:openset:problem:job-unfinished")
    assert early.headers["Retry-After"] == "1"
    assert "0 of 1 images" in early.json()["detail"]
    ended(client, response)


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize("name", ["x", "detect", "0" * 32])
def test_job_that_is_not_there_is_a_404(client, method, name):
    response = getattr(client, method)(f"/jobs/{name}")
    if (method, name) == ("delete", "detect"):
        assert response.status_code in (404, 405)
    else:
        assert (response.status_code, response.json()["type"]) == (404, "urn:openset:problem:unknown-job")


def test_server_without_jobs_has_no_such_endpoint(start):
    client = start(max_jobs=0)
    for method, path in (("GET", "/jobs"), ("POST", "/jobs/detect"), ("GET", "/jobs/x")):
        response = client.request(method, path)
        assert (response.status_code, response.json()["type"]) == (404, "urn:openset:problem:not-found")
    assert not [path for path in client.app.openapi()["paths"] if path.startswith("/jobs")]


def test_body_that_is_too_large_is_as_of_any_request(start):
    client = start(max_body_bytes=2000)
    response = client.post("/jobs/detect", content=b"x" * 3000, headers={"Content-Type": "image/png"})
    assert response.status_code == 413


def test_answer_that_is_fetched_counts_in_the_memory_for_answers(start):
    client = start()
    done = ended(client, client.post("/jobs/embed", files=[("image", ("a.png", IMAGES[0]))]))
    memory = client.app.state.jobs._admission._memory
    others = memory.hold("another client")
    assert others.resize(memory.total)
    refused = client.get(f"/jobs/{done['id']}/result")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert client.get(f"/jobs/{done['id']}").status_code == 200
    others.release()
    assert client.get(f"/jobs/{done['id']}/result").status_code == 200
    assert memory.used == 0
