"""The client with the real server and its bundled models."""

import asyncio
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from openset import AsyncClient, Client, ConnectionFailed, ProblemError, Retries, UrlsUnsupported

from .conftest import ROOT, free_port, until

SCENE, OBJECT = ROOT / "server/examples/scene.jpg", ROOT / "server/examples/dog.jpg"


@pytest.fixture(scope="module")
def url(server):
    return str(server.base_url)


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def small():
    """A server that takes 3 images, 300 kB and one request at a time."""
    port = free_port()
    limits = ["--max-images", "3", "--max-body-bytes", "300000", "--max-inflight-requests", "1", "--warm-up", "none"]
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-level", "warning", *limits]
    with subprocess.Popen(command, cwd=ROOT) as process, Client(f"http://127.0.0.1:{port}", retries=0) as client:
        try:
            until(client.ready, "the small server is ready")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def labels_of(answer):
    return [sorted({found.label for found in result.detections}) for result in answer.results]


def test_every_form_of_an_image_gets_the_same_answer(client):
    file = io.BytesIO()
    Image.open(SCENE).save(file, "PNG")
    picture = Image.open(SCENE)
    forms = [SCENE, str(SCENE), SCENE.read_bytes(), file.getvalue(), picture, np.asarray(picture)]
    answer = client.detect(forms, labels=["dog", "house"])
    assert labels_of(answer) == [["dog", "house"]] * 6
    results = answer.results
    for result in results:
        for found, first in zip(result.detections, results[0].detections, strict=True):
            np.testing.assert_allclose(found.box, first.box, atol=0.05)
            assert abs(found.score - first.score) < 1e-4


def test_labels_come_back_as_they_were_given(client):
    labels = [" Dog ", "dog", "a\ndog", "zażółć 🐕", 'quo"te; name="x"', "--boundary\r\n\r\nx"]
    assert client.detect(SCENE, labels=labels).results[0].labels == labels
    assert [score.label for score in client.classify(OBJECT, labels).results[0].scores if score.label_id == 5] == [
        labels[5]
    ]


def test_options_reach_the_server(client):
    found = client.detect(
        SCENE, prompt="a dog. a house.", box_threshold=0.0, nms_iou=1, max_detections=7, model="grounding-dino-mini"
    )
    assert len(found.results[0].detections) == 7
    (scores,) = (result.scores for result in client.classify(OBJECT, ["dog", "cat"], multi_label=True, top_k=1).results)
    assert [score.label for score in scores] == ["dog"]
    compared = client.similarity([OBJECT, SCENE], "a puppy", embeddings=True)
    cosines = np.array(compared.embeddings.images) @ np.array(compared.embeddings.texts).T
    np.testing.assert_allclose(cosines, compared.similarity, atol=1e-4)


def test_models_and_readiness_are_told(client):
    assert client.ready()
    assert [model.name for model in client.models().models] == ["clip-mini", "grounding-dino-mini", "glip-mini"]


def test_refusal_names_the_field(client):
    with pytest.raises(ProblemError) as caught:
        client.detect(SCENE, labels="dog", box_threshold=3)
    assert (caught.value.status, caught.value.type) == (422, "urn:openset:problem:invalid-request")
    assert [fault.field for fault in caught.value.errors] == ["box_threshold"]


def test_url_is_refused_by_a_server_that_fetches_none(client):
    with pytest.raises(UrlsUnsupported) as caught:
        client.detect("https://pictures.invalid/dog.jpg", labels="dog")
    assert caught.value.type == "urn:openset:problem:url-refused"


def test_more_images_than_the_server_takes_are_answered_in_order(small):
    with Client(small) as client:
        answer = client.detect([SCENE, OBJECT] * 4, labels=["dog", "house"])
        assert labels_of(answer) == [["dog", "house"], ["dog"]] * 4


def test_more_bytes_than_the_server_takes_go_in_several_requests(small):
    noise = np.random.default_rng(0).integers(0, 255, (3, 260, 260, 3), np.uint8)  # 203 kB each, as PNG no less
    with Client(small) as client:
        assert len(client.similarity(list(noise), ["a", "b"]).similarity) == 3


def test_too_large_an_image_is_refused_and_not_sent_again(small):
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    with Client(small, retries=Retries(max_attempts=3, budget_s=5)) as client, pytest.raises(ProblemError) as caught:
        client.detect(noise, labels="dog")
    assert caught.value.type == "urn:openset:problem:body-too-large"


def test_busy_server_answers_all_in_the_end(small):
    retries = Retries(max_attempts=100, budget_s=60, backoff_s=0.1)

    def ask(_):
        with Client(small, retries=retries) as client:
            return labels_of(client.detect(SCENE, labels=["dog"]))

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(ask, range(12))) == [[["dog"]]] * 12


def test_busy_server_refuses_those_who_do_not_try_again(small):
    def ask(_):
        try:
            with Client(small, retries=0) as client:
                client.detect([SCENE] * 3, labels=["dog"])
        except ProblemError as error:
            return error.type
        return "answered"

    with ThreadPoolExecutor(8) as threads:
        outcomes = set(threads.map(ask, range(16)))
    assert outcomes == {"answered", "urn:openset:problem:too-many-requests"}


def test_tasks_and_threads_share_a_client(client, url):
    questions = [("dog", SCENE), ("house", SCENE), ("dog", OBJECT), ("cat", SCENE)] * 6

    async def ask_all():
        async with AsyncClient(url) as asking:
            tasks = (asking.detect(picture, labels=label) for label, picture in questions)
            return [labels_of(answer) for answer in await asyncio.gather(*tasks)]

    with ThreadPoolExecutor(8) as threads:
        by_threads = list(
            threads.map(lambda question: labels_of(client.detect(question[1], labels=question[0])), questions)
        )
    assert asyncio.run(ask_all()) == by_threads == [[[label]] for label, _ in questions]


def test_absent_server_is_told_with_its_address():
    address = f"http://127.0.0.1:{free_port()}"
    with Client(address, retries=Retries(max_attempts=2, backoff_s=0.01)) as client:
        assert not client.ready()
        with pytest.raises(ConnectionFailed, match=f"{address}/models gave no answer after 2 attempts"):
            client.models()


def test_supervision_draws_what_was_found(client):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    scene = np.asarray(Image.open(SCENE))
    detections = client.detect(scene, labels=["dog", "bicycle"]).results[0].to_supervision()
    drawn = supervision.BoxAnnotator().annotate(scene.copy(), detections)
    changed = (drawn != scene).any(-1)
    assert changed[290:470, 50:235].any()
    assert not changed[:200].any()
