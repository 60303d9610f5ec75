"""POST /classify: softmax or sigmoid scores of the labels, best first."""

import base64
import math

import pytest

from tests.server.fakes import picture

RED = base64.b64encode(picture("red")).decode()
GREEN = base64.b64encode(picture("lime")).decode()


def scores(response, image=0):
    assert response.status_code == 200, response.text
    return [(s["label"], s["label_id"], s["score"]) for s in response.json()["results"][image]["scores"]]


def test_best_label_comes_first(client):
    ranked = scores(client.post("/classify", json={"image": RED, "labels": ["g", "r", "b"]}))
    assert ranked[0][:2] == ("r", 1)
    assert [s for *_, s in ranked] == sorted((s for *_, s in ranked), reverse=True)
    assert sum(s for *_, s in ranked) == pytest.approx(1, abs=1e-5)


def test_form_takes_repeated_fields(client):
    response = client.post(
        "/classify",
        files=[("image", ("a.png", picture("red"))), ("image", ("b.png", picture("lime")))],
        data={"labels": ["r", "g"]},
    )
    assert [scores(response, image)[0][0] for image in (0, 1)] == ["r", "g"]


def test_duplicates_and_case_are_kept(client):
    ranked = scores(client.post("/classify", json={"image": RED, "labels": ["R", "r", "r"]}))
    assert sorted((label_id, label) for label, label_id, _ in ranked) == [(0, "R"), (1, "r"), (2, "r")]


def test_top_k_keeps_the_best(client):
    assert len(scores(client.post("/classify", json={"image": RED, "labels": ["g", "r", "b"], "top_k": 2}))) == 2


def test_multi_label_scores_stand_alone(client):
    response = client.post("/classify", json={"image": RED, "labels": ["r", "rr", "g"], "multi_label": True})
    by_label = {label: score for label, _, score in scores(response)}
    assert by_label["r"] > 0.99
    assert by_label["rr"] > 0.99
    assert by_label["g"] == pytest.approx(0.5, abs=0.01)  # sigmoid of a cosine of 0


def test_template_goes_around_the_label(client):
    # "gg{}": green outweighs the label's red in the text embedding.
    with_template = scores(
        client.post(
            "/classify", json={"image": GREEN, "labels": ["r", "b"], "templates": ["gg{}"], "multi_label": True}
        )
    )
    assert all(score > 0.99 for *_, score in with_template)


def test_several_templates_are_averaged_as_unit_embeddings(client):
    body = {"image": RED, "labels": ["r"], "multi_label": True}
    both = scores(client.post("/classify", json=body | {"templates": ["{}", "g g g g {}"]}))
    # unit(r) and unit(r + 4g) average to a direction whose cosine with red is known
    first, second = (1.0, 0.0), (1 / math.sqrt(17), 4 / math.sqrt(17))
    mean = ((first[0] + second[0]) / 2, (first[1] + second[1]) / 2)
    cosine = mean[0] / math.hypot(*mean)
    assert both[0][2] == pytest.approx(1 / (1 + math.exp(-10 * cosine)), abs=1e-4)


def test_template_without_a_place_is_refused(client):
    response = client.post("/classify", json={"image": RED, "labels": ["r"], "templates": ["a photo"]})
    assert response.json()["errors"] == [
        {"field": "templates.0", "reason": "a template must contain {}, which is replaced by the label"}
    ]


@pytest.mark.parametrize(("template", "label"), [("{}" * 500, "x" * 1000), ("{} " * 300, "x" * 8)])
def test_template_that_repeats_a_long_label_is_refused_before_it_is_filled(client, encoder, template, label):
    runs = len(encoder.text_runs)
    response = client.post("/classify", json={"image": RED, "labels": ["r", label], "templates": ["{}", template]})
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert fault["field"] == "templates"
    assert "a text has more than 2000 characters" in fault["reason"]
    assert len(encoder.text_runs) == runs


def test_longest_template_takes_the_longest_label(client):
    body = {"image": RED, "labels": ["r" + " " * 999], "templates": ["{}" + " " * 998]}
    assert client.post("/classify", json=body).status_code == 200


def test_labels_with_braces_are_text(client):
    assert scores(client.post("/classify", json={"image": RED, "labels": ["{0.__class__}", "r"]}))[0][0] == "r"


def test_labels_times_templates_are_bounded(start):
    client = start(max_labels=5)
    body = {"image": RED, "labels": ["a", "b", "c"], "templates": ["{}", "x {}"]}
    response = client.post("/classify", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0] == {
        "field": "labels",
        "reason": "6 labels (times templates), at most 5 are accepted",
    }


def test_label_over_the_token_limit_is_named_and_harms_nobody(client):
    response = client.post("/classify", json={"image": RED, "labels": ["r", "x" * 50]})
    assert response.status_code == 422
    assert "takes 52 tokens, the model reads 40" in response.json()["detail"]
    assert scores(client.post("/classify", json={"image": RED, "labels": ["r"]}))[0][0] == "r"


def test_only_new_labels_are_encoded(client, encoder):
    client.post("/classify", json={"image": RED, "labels": ["a", "b"]})
    client.post("/classify", json={"image": RED, "labels": ["b", "c", "a"]})
    assert encoder.text_runs[-2:] == [2, 1]
