"""One bad image among several: named by its index, or skipped, so that the others keep their results and places."""

import base64
from typing import Any

import pytest

from tests.server.fakes import picture

GOOD, BAD = (base64.b64encode(data).decode() for data in (picture("red"), b"no picture"))
FIELDS: dict[str, dict[str, Any]] = {
    "/detect": {"labels": ["dog"]},
    "/classify": {"labels": ["r", "g"]},
    "/similarity": {"texts": ["r"], "embeddings": True},
    "/embed": {},
}


def rows(path, answer):
    return answer[{"/similarity": "similarity", "/embed": "images"}.get(path, "results")]


def is_empty(row):
    if isinstance(row, list):
        return row == []
    return row == {"scores": []} or (row.get("width"), row.get("height"), row.get("detections")) == (0, 0, [])


@pytest.mark.parametrize("path", FIELDS)
def test_skipped_image_has_an_empty_result_and_a_problem(client, path):
    body = {"images": [GOOD, BAD, GOOD], "on_error": "skip", **FIELDS[path]}
    answer = client.post(path, json=body).json()
    first, second, third = rows(path, answer)
    assert is_empty(second)
    assert first == third
    assert not is_empty(first)
    (problem,) = answer["problems"]
    assert (problem["index"], problem["status"]) == (1, 415)
    assert problem["type"] == "urn:openset:problem:unsupported-image"
    assert problem["detail"].startswith("image 2 of 3 is not a picture")


@pytest.mark.parametrize("path", FIELDS)
def test_without_it_the_request_is_refused_with_the_index(client, path):
    response = client.post(path, json={"images": [GOOD, BAD], **FIELDS[path]})
    assert (response.status_code, response.json()["index"]) == (415, 1)


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.parametrize("value", ["not base64!", "data:,x", "====", "ä", None, 7, [GOOD], "!" * 200_000])
def test_value_that_is_no_image_is_skipped_as_one_that_cannot_be_read(client, path, value):
    answer = client.post(path, json={"images": [GOOD, value, GOOD], "on_error": "skip", **FIELDS[path]}).json()
    first, second, third = rows(path, answer)
    assert is_empty(second)
    assert first == third
    (problem,) = answer["problems"]
    assert (problem["index"], problem["type"]) == (1, "urn:openset:problem:broken-image")
    assert problem["detail"].startswith("the image ")
    refused = client.post(path, json={"images": [GOOD, value], **FIELDS[path]})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "images.1")


def test_one_image_that_is_no_base64_is_a_problem_too(client):
    answer = client.post("/detect", json={"image": "???", "labels": ["dog"], "on_error": "skip"}).json()
    assert [problem["index"] for problem in answer["problems"]] == [0]


@pytest.mark.parametrize("path", FIELDS)
def test_answer_without_a_bad_image_has_no_problems(client, path):
    answer = client.post(path, json={"images": [GOOD], "on_error": "skip", **FIELDS[path]}).json()
    assert "problems" not in answer


@pytest.mark.parametrize("path", FIELDS)
def test_all_images_may_be_skipped(client, path):
    answer = client.post(path, json={"images": [BAD, BAD], "on_error": "skip", **FIELDS[path]}).json()
    assert all(map(is_empty, rows(path, answer)))
    assert [problem["index"] for problem in answer["problems"]] == [0, 1]


def test_form_asks_for_it_too_and_an_empty_file_is_skipped(client):
    files = [("image", ("a", picture())), ("image", ("b", b"")), ("image", ("c", picture()[:-30]))]
    answer = client.post("/detect", files=files, data={"labels": "dog", "on_error": "skip"}).json()
    assert [problem["index"] for problem in answer["problems"]] == [1, 2]


def test_nothing_is_drawn_on_an_image_that_is_skipped(client):
    body = {"images": [BAD], "labels": ["dog"], "on_error": "skip"}
    response = client.post("/detect", json=body, headers={"Accept": "image/png"})
    assert response.status_code == 415


def test_faults_of_the_request_are_never_skipped(start):
    client = start(max_images=1)
    body = {"images": [GOOD, GOOD], "labels": ["dog"], "on_error": "skip"}
    assert client.post("/detect", json=body).status_code == 422
    assert client.post("/detect", json=body | {"on_error": "ignore"}).json()["errors"][0]["field"] == "on_error"
