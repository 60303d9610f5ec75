"""POST /detect with more labels than the token limit, and with the scores of all labels."""

import base64

import pytest

from tests.server.fakes import picture

IMAGE = base64.b64encode(picture()).decode()
# The model's 64 tokens leave 62 for labels of four each, with the full stop: 15 in a pass.
ANIMALS = ["dog", "cat", "cow", "pig", "hen", "fox", "owl", "bee", "ant", "elk"] * 4


def detect(client, labels=ANIMALS, **fields):
    response = client.post("/detect", json={"image": IMAGE, "labels": labels, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client, **fields):
    response = client.post("/detect", json={"image": IMAGE, **fields})
    assert response.status_code == 422
    return response.json()


def test_labels_over_the_token_limit_are_asked_in_passes_of_one_image_run(client, detector):
    detector.runs.clear()
    detector.passes.clear()
    answer = detect(client, box_threshold=0)
    assert answer["passes"] == 3
    assert answer["results"][0]["labels"] == ANIMALS
    assert detector.runs == [1], "the image was encoded once"
    assert detector.passes == [1, 1, 1], "one pass after the other"


def test_detections_of_all_passes_name_their_places_in_the_whole_request(client):
    found = detect(client, box_threshold=0.85)["results"][0]["detections"]
    assert [(each["label"], each["label_id"]) for each in found] == [(ANIMALS[0], 0)], "all passes box the same thing"
    assert found[0]["matched"] == [[0, 3]]


def test_caption_in_passes_keeps_its_spans(client):
    caption = ". ".join(ANIMALS)
    response = client.post("/detect", json={"image": IMAGE, "prompt": caption, "box_threshold": 0})
    answer = response.json()
    spans = answer["results"][0]["label_spans"]
    assert answer["passes"] == 3
    assert [caption[start:end] for start, end in spans] == ANIMALS


def test_one_pass_is_told_too(client):
    assert detect(client, ["dog"])["passes"] == 1


def test_more_passes_than_allowed_are_refused_by_the_settings_name(start):
    problem = refusal(start(max_passes=2), labels=ANIMALS)
    assert problem["type"] == "urn:openset:problem:prompt-too-long"
    assert "of the 3 passes that they need at most 2 are run (max_passes)" in problem["detail"]


def test_label_that_no_pass_holds_is_refused_by_name(client):
    problem = refusal(client, labels=["dog", "c" * 62])
    assert problem["type"] == "urn:openset:problem:prompt-too-long"
    assert "label 'cccc" in problem["detail"]
    assert "takes 63 tokens, the model reads 62" in problem["detail"]


def test_text_features_of_each_pass_are_cached(client, detector):
    detect(client)
    runs = len(detector.text_runs)
    detect(client)
    assert len(detector.text_runs) == runs
    detect(client, [*ANIMALS[:30], "yak"])
    assert len(detector.text_runs) == runs + 1, "two of its three passes are as before"


def test_bound_of_passes_is_told(client):
    assert client.get("/models").json()["limits"]["max_passes"] == 16


def test_scores_of_all_labels_come_on_request(client):
    body = {"labels": ["dog", "cat"], "box_threshold": 0.5}
    dog, cat = detect(client, **body, label_scores=True)["results"][0]["detections"]
    assert (dog["label_scores"], cat["label_scores"]) == ([0.9, 0.0], [0.0, 0.8])
    assert all("label_scores" not in each for each in detect(client, **body)["results"][0]["detections"])


def test_scores_of_all_labels_reach_over_passes(client):
    (best, *_) = detect(client, label_scores=True)["results"][0]["detections"]
    assert len(best["label_scores"]) == len(ANIMALS)
    assert best["label_scores"][15] == pytest.approx(0.9), "the first label of the second pass, at the same place"


def test_more_scores_than_an_answer_may_have_are_refused(client):
    problem = refusal(client, labels=["dog"] * 101, label_scores=True, max_detections=10_000)
    assert problem["errors"][0]["field"] == "label_scores"
    assert "1010000 scores, at most 1000000" in problem["errors"][0]["reason"]
