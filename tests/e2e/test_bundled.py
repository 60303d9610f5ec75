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
EXAMPLES = ROOT / "server/examples"
DOG, COW = EXAMPLES / "dog.jpg", EXAMPLES / "cow.jpg"
SHOWN = {  # photographs, the thing they show, and where: x0, y0, x1, y1
    "dog.jpg": ("dog", (22, 15, 495, 398)),
    "cow.jpg": ("cow", (146, 183, 571, 430)),
    "cat.jpg": ("cat", (0, 0, 385, 300)),
    "coffee.jpg": ("cup", (75, 18, 480, 385)),
}
ABSENT = ("bicycle", "guitar", "pizza", "elephant")
DETECTORS = pytest.mark.parametrize("model", ["grounding-dino-mini", "glip-mini"])
PHOTOGRAPHS = pytest.mark.parametrize("file", SHOWN)


def post(server, path, picture, **fields):
    answer = server.post(path, files=[("image", picture.read_bytes())], data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@DETECTORS
@PHOTOGRAPHS
def test_best_box_is_what_a_photograph_shows(server, model, file):
    label, box = SHOWN[file]
    (result,) = post(server, "/detect", EXAMPLES / file, model=model, labels=[label, *ABSENT])["results"]
    best = max(result["detections"], key=lambda found: found["score"])
    assert best["label"] == label
    assert iou_matrix(np.float32([best["box"]]), np.float32([box]))[0, 0] > 0.5


@DETECTORS
@PHOTOGRAPHS
def test_nothing_is_found_of_what_a_photograph_does_not_show(server, model, file):
    (result,) = post(server, "/detect", EXAMPLES / file, model=model, labels=ABSENT)["results"]
    assert result["detections"] == []


@DETECTORS
def test_two_hundred_labels_are_one_request(server, model):
    lines = (ROOT / "models/synthetic/names.txt").read_text().splitlines()
    names = [line.partition(":")[0] for line in lines if line and not line.startswith("#")]
    labels = [*names, *(f"a big {name}" for name in names[:60])]
    answer = post(server, "/detect", DOG, model=model, labels=labels, box_threshold=0.2)
    (result,) = answer["results"]
    assert len(labels) > 200
    assert answer["passes"] > 2
    assert result["labels"] == labels
    assert {found["label"] for found in result["detections"]} & {"dog", "a big dog"}
    assert all(labels[found["label_id"]] == found["label"] for found in result["detections"])


def test_classify_names_the_object(server):
    (result,) = post(server, "/classify", DOG, labels=["cat", "dog", "guitar", "rocket"])["results"]
    assert result["scores"][0]["label"] == "dog"
    assert result["scores"][0]["score"] > 0.8


def test_similarity_prefers_the_right_text(server):
    ((dog, rocket),) = post(server, "/similarity", DOG, texts=["a dog", "a rocket"])["similarity"]
    assert dog > rocket + 0.2


def test_drawn_answer_is_the_picture_with_boxes(server):
    answer = server.post(
        "/detect", files={"image": COW.read_bytes()}, data={"labels": "cow"}, headers={"Accept": "image/png"}
    )
    drawn = Image.open(io.BytesIO(answer.content))
    changed = np.abs(np.asarray(drawn, np.int16) - np.asarray(Image.open(COW), np.int16)).max(-1) > 30
    assert drawn.size == (640, 480)
    assert changed[130:400, 90:540].any()
    assert not changed[:80].any(), "only the cows are drawn on"


def test_first_detector_answers_where_no_model_is_named(server):
    assert post(server, "/detect", DOG, labels="dog")["model"]["name"] == "grounding-dino-mini"
    assert post(server, "/detect", DOG, labels="dog", model="glip")["model"]["name"] == "glip-mini"


@DETECTORS
def test_answer_does_not_depend_on_the_other_requests(server, model):
    questions = [dict(labels=["dog", "cow"]), dict(prompt="cat. bicycle. cow."), dict(labels=["cow"] * 9)]
    turned = io.BytesIO()
    Image.open(COW).rotate(90, expand=True).save(turned, "PNG")
    pictures = [COW.read_bytes(), DOG.read_bytes(), turned.getvalue()]
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
    post(server, "/detect", DOG, labels="dog")
    assert "torch" not in Path(f"/proc/{server.pid}/maps").read_text()


def test_shell_draws_without_a_server(tmp_path):
    drawn = tmp_path / "drawn.png"
    command = [sys.executable, "-m", "server", "detect", str(COW), "--prompt", "a cow. a bicycle.", "--json"]
    done = subprocess.run(
        [*command, "--out", str(drawn)], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert {found["label"] for found in answer["results"][0]["detections"]} == {"a cow"}
    assert Image.open(drawn).size == (640, 480)
