"""Images by URL over HTTP: off by default; in JSON and in forms."""

import base64
import io
import re

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from server.app import create_app
from server.settings import Settings
from tests.server.fakes import picture
from tests.server.web import HOST, Web, answer

URL = f"https://{HOST}/red.png"


@pytest.fixture
def web():
    with Web() as web:
        for colour in ("red", "lime"):
            web.pages[f"/{colour}.png"] = answer(picture(colour), "Content-Type: image/png")
        yield web


@pytest.fixture
def client(web, detector, encoder):
    app = create_app(Settings(decode_threads=2, max_images=2), [detector, encoder], fetcher=web.fetcher())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def best(response):
    assert response.status_code == 200, response.text
    return [result["scores"][0]["label"] for result in response.json()["results"]]


def sample(client, line):
    found = re.search(rf"^{re.escape(line)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else None


def test_time_of_the_fetch_is_told(client):
    response = client.post("/classify", json={"image_url": URL, "labels": ["g", "r"]})
    assert response.headers["server-timing"].startswith("fetch;dur=")


def test_urls_are_off_by_default(start):
    response = start().post("/classify", json={"image_url": URL, "labels": ["r"]})
    assert (response.status_code, response.json()["type"]) == (422, "urn:openset:problem:url-refused")
    assert "url_images" in response.json()["detail"]
    assert HOST not in response.text


def test_models_tell_whether_urls_are_on(client, start):
    assert client.get("/models").json()["url_images"] is True
    assert start().get("/models").json()["url_images"] is False


def test_threshold_that_no_score_exceeds_gets_the_picture_of_a_url_as_it_is(client):
    fields = {"image_url": URL, "labels": ["picture"], "box_threshold": 1, "max_detections": 1}
    response = client.post("/detect", json=fields, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    sent, shown = (Image.open(io.BytesIO(data)).convert("RGB") for data in (picture("red"), response.content))
    assert sent.tobytes() == shown.tobytes(), "nothing is drawn; the test page shows it"


def test_one_url_is_an_image(client):
    assert best(client.post("/classify", json={"image_url": URL, "labels": ["g", "r"]})) == ["r"]


def test_several_urls_are_answered_in_their_order(client):
    urls = [f"https://{HOST}/lime.png", URL]
    assert best(client.post("/classify", json={"image_urls": urls, "labels": ["g", "r"]})) == ["g", "r"]


@pytest.mark.parametrize("url", ["", "https://" + "a" * 3000, 7, None])
def test_value_that_is_no_url_is_skipped_as_one_that_gives_no_image(client, url):
    fields = {"image_urls": [url, URL], "labels": ["g", "r"], "on_error": "skip"}
    answer = client.post("/classify", json=fields).json()
    assert [bool(result["scores"]) for result in answer["results"]] == [False, True]
    assert [(each["index"], each["type"]) for each in answer["problems"]] == [(0, "urn:openset:problem:url-refused")]
    refused = client.post("/classify", json=fields | {"on_error": "raise"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "image_urls.0")


def test_form_takes_repeated_urls(client):
    fields = {"image_url": [URL, f"https://{HOST}/lime.png"], "labels": ["g", "r"]}
    files = {name: (None, value) for name, value in {"model": "clip"}.items()}  # makes it multipart
    assert best(client.post("/classify", data=fields, files=files)) == ["r", "g"]


@pytest.mark.parametrize(
    "fields",
    [
        {"image_url": URL, "image": base64.b64encode(picture()).decode()},
        {"image_url": URL, "image_urls": [URL]},
        {"image_urls": []},
    ],
)
def test_images_come_in_one_way(client, fields):
    response = client.post("/classify", json=fields | {"labels": ["r"]})
    assert response.status_code == 422
    assert "give one of 'image', 'images', 'image_url' and 'image_urls'" in response.json()["detail"]


def test_too_many_urls_are_refused_before_any_is_fetched(client, web):
    response = client.post("/classify", json={"image_urls": [URL] * 3, "labels": ["r"]})
    assert "3 images, at most 2 are accepted" in response.json()["detail"]
    assert web.resolved == []


def test_url_that_gives_no_image_is_a_problem_without_the_url(client):
    response = client.post("/classify", json={"image_urls": [URL, f"https://{HOST}/secret"], "labels": ["r"]})
    assert (response.status_code, response.json()["type"]) == (424, "urn:openset:problem:url-failed")
    assert response.json()["detail"] == "image 2 of 2: its URL answers with status 404"


def test_bytes_that_are_no_image_are_named_like_others(client, web):
    web.pages["/red.png"] = answer(b"hello", "Content-Type: image/png")
    response = client.post("/classify", json={"image_url": URL, "labels": ["r"]})
    assert (response.status_code, response.json()["type"]) == (415, "urn:openset:problem:unsupported-image")


def test_url_is_no_field_of_a_query(client):
    response = client.post(
        f"/classify?labels=r&image_url={URL}", content=picture(), headers={"Content-Type": "image/png"}
    )
    assert response.json()["errors"] == [{"field": "image_url", "reason": "the body is the image"}]


def test_fetches_are_counted(client):
    client.post("/classify", json={"image_url": URL, "labels": ["r"]})
    client.post("/classify", json={"image_url": "http://x.example", "labels": ["r"]})
    assert sample(client, "openset_fetched_bytes_total") == len(picture("red"))
    assert sample(client, "openset_fetch_duration_seconds_count") == 2
    assert sample(client, 'openset_rejected_total{reason="url-refused"}') == 1
