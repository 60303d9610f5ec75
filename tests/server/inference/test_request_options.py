"""Options of a request: thresholds of labels, suppression across them, sizes, and labels that no vocabulary knows."""

import base64

from tests.server.fakes import picture


def body(colour, **fields):
    return {"image": base64.b64encode(picture(colour)).decode(), **fields}


def test_label_that_the_vocabulary_does_not_know_is_told_and_not_boxed(client):
    answer = client.post("/detect", json=body("white", labels=["🐕", "dog", "a 🐈"])).json()
    assert [found["label_id"] for found in answer["results"][0]["detections"]] == [1, 2]
    assert answer["warnings"] == [
        {
            "field": "labels.0",
            "reason": "'🐕': the model's vocabulary knows no part of it, and it is not searched for",
        },
        {"field": "labels.2", "reason": "'a 🐈': the model's vocabulary does not know 🐈: it reads the rest"},
    ]
    caption = client.post("/detect", json=body("white", prompt="🐕. a dog.")).json()
    assert [found["label"] for found in caption["results"][0]["detections"]] == ["a dog"]
    assert caption["warnings"][0]["field"] == "prompt"


def test_lone_label_with_a_comma_is_told_to_be_one(client):
    assert (
        "is one label" in client.post("/detect", json=body("white", labels=["dog,cat"])).json()["warnings"][0]["reason"]
    )
    assert "warnings" not in client.post("/detect", json=body("white", labels=["dog, wet", "cat"])).json()


def test_thresholds_are_given_for_each_label(client):
    fields = {"labels": ["a", "b"], "label_thresholds": [0.95, None]}
    found = client.post("/detect", json=body("white", **fields)).json()["results"][0]["detections"]
    assert [each["label_id"] for each in found] == [1]
    form = {"labels": "a,b", "label_thresholds": "0.95,null"}
    same = client.post("/detect", files=[("image", ("a.png", picture("white")))], data=form).json()["results"][0][
        "detections"
    ]
    assert same == found
    refused = client.post("/detect", json=body("white", labels=["a", "b"], label_thresholds=[0.5])).json()
    assert refused["errors"] == [
        {"field": "label_thresholds", "reason": "1 thresholds for 2 labels: give one for each, null for the default"}
    ]


def test_boxes_suppress_those_of_other_labels_on_request(client):
    fields = {"labels": ["a", "b"]}
    for changes, count in (({}, 2), ({"nms_iou": 0.5}, 2), ({"nms_across_labels": True}, 1)):
        found = client.post("/detect", json=body("white", **fields, **changes)).json()["results"][0]["detections"]
        assert len(found) == count


def test_size_of_the_models_input_is_asked_for_within_its_range(client, detector):
    answer = client.post("/detect", json=body("white", labels=["a"], shorter=16)).json()
    assert answer["results"][0]["width"] == 40
    limits = client.get("/models").json()["models"][0]["limits"]
    assert (limits["min_shorter"], limits["max_shorter"]) == (8, 32)
    for size in (7, 33):
        refused = client.post("/detect", json=body("white", labels=["a"], shorter=size))
        assert refused.status_code == 422
        assert f"fake-detector takes 8 to 32, got {size}" in refused.text


def test_bound_of_the_longer_side_is_asked_for_within_its_range(client):
    limits = client.get("/models").json()["models"][0]["limits"]
    assert (limits["min_longer"], limits["max_longer"]) == (16, 64)
    assert client.post("/detect", json=body("white", labels=["a"], longer=16)).status_code == 200
    refused = client.post("/detect", json=body("white", labels=["a"], shorter=7, longer=65))
    assert [fault["field"] for fault in refused.json()["errors"]] == ["shorter", "longer"]
    assert "fake-detector takes 16 to 64, got 65" in refused.text
