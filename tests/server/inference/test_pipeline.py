"""Hundreds of labels asked of the bundled detectors: one run of the image encoder, and what its passes say alone."""

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.bundle import Bundle
from server.contract.postprocess import SAME_BOX, iou_matrix
from server.registry.model_cache import BUNDLED
from server.settings import Settings

ROOT = Path(__file__).parents[3]
SCENE = base64.b64encode((ROOT / "server/examples/scene.jpg").read_bytes()).decode()
LINES = (ROOT / "models/synthetic/names.txt").read_text().splitlines()
NAMES = [line.partition(":")[0] for line in LINES if line and not line.startswith("#")]
LABELS = [*NAMES, *(f"a big {name}" for name in NAMES[:60])]


@pytest.fixture(scope="module", params=["grounding-dino-mini", "glip-mini"])
def bundle(request):
    return Bundle(BUNDLED / request.param, threads=1)


@pytest.fixture(scope="module")
def client(bundle):
    with TestClient(create_app(Settings(warm_up="none", max_passes=32), [bundle])) as client:
        yield client


def ask(client, labels, **fields):
    body = {"image": SCENE, "labels": labels, "box_threshold": 0.1, "max_detections": 10_000} | fields
    response = client.post("/detect", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def found(answer, first=0):
    return [(each["label_id"] + first, each["score"], each["box"]) for each in answer["results"][0]["detections"]]


def merged_by_hand(passes):
    """Of the detections of each pass, best first, those that no better one of another pass boxes alike."""
    ranked = sorted((entry, number) for number, entries in enumerate(passes) for entry in entries)
    kept = []
    for entry, number in sorted(ranked, key=lambda each: -each[0][1]):
        rivals = [box for (_, _, box), other in kept if other != number]
        if not rivals or iou_matrix(np.float32([entry[2]]), np.float32(rivals)).max() <= SAME_BOX:
            kept.append((entry, number))
    return [entry for entry, _ in kept]


def test_two_hundred_labels_are_asked_with_one_run_of_the_image_encoder(client, bundle, fed):
    encoded, detected = fed(bundle, "image_encoder"), fed(bundle, "detector")
    answer = ask(client, LABELS)
    assert len(LABELS) > 200
    assert answer["results"][0]["labels"] == LABELS
    assert answer["passes"] == len(bundle.prompts.label_passes(LABELS, max_passes=32)) > 2
    assert len(encoded) == 1
    assert [len(run["text_features"]) for run in detected] == [1] * answer["passes"], "one pass after the other"


def test_split_prompt_answers_what_its_passes_answer_one_by_one(client, bundle):
    passes = []
    for prompt in bundle.prompts.label_passes(LABELS, max_passes=32):
        answer = ask(client, [label.text for label in prompt.labels])
        assert answer["passes"] == 1
        passes.append(found(answer, prompt.first_label))
    wanted, got = merged_by_hand(passes), found(ask(client, LABELS))
    assert len(got) > 5
    assert [(label, score) for label, score, _ in got] == [(label, score) for label, score, _ in wanted]
    np.testing.assert_allclose([box for *_, box in got], [box for *_, box in wanted], atol=0.01)


def test_answer_in_passes_does_not_depend_on_neighbours(client):
    questions = [LABELS, ["dog", "cat"], NAMES[::-1], ["house"]]
    alone = [found(ask(client, labels)) for labels in questions]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda labels: found(ask(client, labels)), questions * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert [label for label, *_ in one] == [label for label, *_ in other]
        np.testing.assert_allclose([score for _, score, _ in one], [score for _, score, _ in other], atol=1e-4)


def test_label_scores_agree_with_the_detections(client, bundle):
    prompts = bundle.prompts.label_passes(LABELS, max_passes=32)
    for each in ask(client, LABELS, label_scores=True, max_detections=20)["results"][0]["detections"]:
        scores, label = each["label_scores"], each["label_id"]
        own = next(prompt for prompt in reversed(prompts) if prompt.first_label <= label)
        assert len(scores) == len(LABELS)
        assert scores[label] == each["score"] == max(scores[own.first_label :][: len(own.labels)])
