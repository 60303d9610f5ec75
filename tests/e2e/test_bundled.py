"""`openset serve` as the README starts it, with the bundled models: right answers about a picture, without PyTorch."""

import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.contract.postprocess import iou_matrix

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "server/examples/scene.jpg"
OBJECT = ROOT / "server/examples/dog.jpg"
SHOWN = {  # where things were pasted: x0, y0, x1, y1
    "dog": (60, 310, 203, 460),
    "bicycle": (235, 260, 445, 418),
    "house": (430, 140, 610, 320),
    "airplane": (60, 40, 170, 150),
    "cat": (500, 340, 617, 470),
}
ABSENT = ("banana", "guitar", "pizza", "elephant")
DETECTORS = pytest.mark.parametrize("model", ["grounding-dino-mini", "glip-mini"])


def post(server, path, picture, **fields):
    answer = server.post(path, files=[("image", picture.read_bytes())], data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_detect_finds_what_the_scene_shows_and_nothing_that_is_absent(server):
    (result,) = post(server, "/detect", SCENE, labels=[*SHOWN, *ABSENT], box_threshold=0.25)["results"]
    assert (result["width"], result["height"]) == (640, 480)
    assert {found["label"] for found in result["detections"]} == set(SHOWN)


@DETECTORS
def test_best_box_of_each_label_is_where_the_thing_is(server, model):
    labels = [*SHOWN, *ABSENT]
    (result,) = post(server, "/detect", SCENE, model=model, labels=labels, box_threshold=0.2)["results"]
    best = {found["label"]: found["box"] for found in reversed(result["detections"])}
    for label, box in SHOWN.items():
        assert iou_matrix(np.float32([best[label]]), np.float32([box]))[0, 0] > 0.5, label


@pytest.mark.parametrize(("model", "least"), [("grounding-dino-mini", 3), ("glip-mini", 5)])
def test_what_a_detector_is_sure_of_is_right(server, model, least):
    (result,) = post(server, "/detect", SCENE, model=model, labels=[*SHOWN, *ABSENT])["results"]
    assert {found["label"] for found in result["detections"]} <= set(SHOWN)
    assert len(result["detections"]) >= least


@DETECTORS
def test_two_hundred_labels_are_one_request(server, model):
    lines = (ROOT / "models/synthetic/names.txt").read_text().splitlines()
    names = [line.partition(":")[0] for line in lines if line and not line.startswith("#")]
    labels = [*names, *(f"a big {name}" for name in names[:60])]
    answer = post(server, "/detect", SCENE, model=model, labels=labels)
    (result,) = answer["results"]
    assert len(labels) > 200
    assert answer["passes"] > 2
    assert result["labels"] == labels
    assert {found["label"] for found in result["detections"]} & set(SHOWN)
    assert all(labels[found["label_id"]] == found["label"] for found in result["detections"])


@pytest.mark.parametrize(("model", "strict"), [("grounding-dino-mini", 0.4), ("glip-mini", 0.6)])
def test_prompt_of_absent_things_finds_nothing_at_a_strict_threshold(server, model, strict):
    asked = {"model": model, "prompt": "a banana. a guitar.", "box_threshold": strict}
    (result,) = post(server, "/detect", SCENE, **asked)["results"]
    assert result["detections"] == []


def test_classify_names_the_object(server):
    (result,) = post(server, "/classify", OBJECT, labels=["cat", "dog", "guitar", "rocket"])["results"]
    assert result["scores"][0]["label"] == "dog"
    assert result["scores"][0]["score"] > 0.8


def test_similarity_prefers_the_right_text(server):
    ((dog, rocket),) = post(server, "/similarity", OBJECT, texts=["a dog", "a rocket"])["similarity"]
    assert dog > rocket + 0.2


def test_drawn_answer_is_the_picture_with_boxes(server):
    answer = server.post(
        "/detect", files={"image": SCENE.read_bytes()}, data={"labels": "dog"}, headers={"Accept": "image/png"}
    )
    drawn = Image.open(io.BytesIO(answer.content))
    changed = np.abs(np.asarray(drawn, np.int16) - np.asarray(Image.open(SCENE), np.int16)).max(-1) > 30
    assert drawn.size == (640, 480)
    assert changed[290:470, 50:235].any()
    assert not changed[:250].any(), "only the dog is drawn on"


def test_first_detector_answers_where_no_model_is_named(server):
    assert post(server, "/detect", SCENE, labels="dog")["model"]["name"] == "grounding-dino-mini"
    assert post(server, "/detect", SCENE, labels="dog", model="glip")["model"]["name"] == "glip-mini"


@DETECTORS
def test_answer_does_not_depend_on_the_other_requests(server, model):
    questions = [dict(labels=["dog", "house"]), dict(prompt="cat. bicycle. airplane."), dict(labels=["airplane"] * 9)]
    turned = io.BytesIO()
    Image.open(SCENE).rotate(90, expand=True).save(turned, "PNG")
    pictures = [SCENE.read_bytes(), OBJECT.read_bytes(), turned.getvalue()]
    asked = [(picture, question) for picture in pictures for question in questions]

    def ask(picture, question):
        answer = server.post(
            "/detect", files={"image": picture}, data=question | {"model": model, "box_threshold": 0.1}
        )
        return [
            (found["label_id"], found["box"], found["score"]) for found in answer.json()["results"][0]["detections"]
        ]

    alone = [ask(*one) for one in asked]
    with ThreadPoolExecutor(9) as clients:
        together = list(clients.map(lambda one: ask(*one), asked * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert [label for label, _, _ in one] == [label for label, _, _ in other]
        np.testing.assert_allclose([box for _, box, _ in one], [box for _, box, _ in other], atol=0.05)
        np.testing.assert_allclose([score for *_, score in one], [score for *_, score in other], atol=1e-4)
    executions, inferences = (metric(server, f"openset_{name}_total", model) for name in ("executions", "inferences"))
    assert executions < inferences, "some requests shared a run"


def metric(server, name, model):
    found = re.search(rf'^{name}{{model="{model}"}} ([0-9.e+]+)$', server.get("/metrics").text, re.M)
    return float(found[1])


def test_models_are_listed_with_valid_certificates(server):
    models = server.get("/models").json()["models"]
    assert [model["name"] for model in models] == ["clip-mini", "grounding-dino-mini", "glip-mini"]
    assert all(artefact["certified"] for model in models for artefact in model["artefacts"])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc to see what a process has loaded")
def test_serving_process_has_no_torch(server):
    post(server, "/detect", SCENE, labels="dog")
    assert "torch" not in Path(f"/proc/{server.pid}/maps").read_text()


def test_shell_draws_without_a_server(tmp_path):
    drawn = tmp_path / "drawn.png"
    command = [sys.executable, "-m", "server", "detect", str(SCENE), "--prompt", "a dog. a bicycle.", "--json"]
    done = subprocess.run(
        [*command, "--out", str(drawn)], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert {found["label"] for found in answer["results"][0]["detections"]} == {"a dog", "a bicycle"}
    assert Image.open(drawn).size == (640, 480)
