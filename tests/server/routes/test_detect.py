"""POST /detect: exact labels, JSON and form bodies, several images, drawings."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.server.fakes import FakeDetector, picture

PNG = {"Accept": "image/png"}


def form(*colours):
    return [("image", (f"{colour}.png", picture(colour))) for colour in colours]


def b64(data):
    return base64.b64encode(data).decode()


def found(response, image=0):
    assert response.status_code == 200, response.text
    return [(d["label"], d["label_id"]) for d in response.json()["results"][image]["detections"]]


def test_form_with_a_caption(client):
    response = client.post("/detect", files=form("red"), data={"prompt": "a dog. a bicycle."})
    assert found(response) == [("a dog", 0), ("a bicycle", 1)]
    assert response.json()["model"] == {"name": "fake-detector", "family": "grounding_dino", "version": "1"}
    assert response.json()["results"][0]["label_spans"] == [[0, 5], [7, 16]]
    assert {"decode", "preprocess", "text_encode", "queue", "infer", "postprocess", "total"} <= set(
        response.json()["timings_ms"]
    )


def test_form_with_repeated_labels(client):
    assert found(client.post("/detect", files=form("red"), data={"labels": ["dog", "cat"]})) == [("dog", 0), ("cat", 1)]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_json_with_base64(client, prefix):
    response = client.post("/detect", json={"image": prefix + b64(picture()), "labels": ["dog"]})
    assert found(response) == [("dog", 0)]


def test_base64_with_line_breaks_is_read(client):
    wrapped = base64.encodebytes(picture(size=(90, 70))).decode()
    assert "\n" in wrapped
    assert found(client.post("/detect", json={"image": wrapped, "labels": ["dog"]})) == [("dog", 0)]


def test_json_and_form_give_the_same_results(client):
    by_json = client.post("/detect", json={"images": [b64(picture())], "prompt": "a dog. a cat"})
    by_form = client.post("/detect", files=form("red"), data={"prompt": "a dog. a cat"})
    assert by_json.json()["results"] == by_form.json()["results"]


def test_labels_come_back_as_written(client):
    labels = ["Dog", "dog", "dog", "sports car", "car", "CARTOON"]
    response = client.post("/detect", json={"image": b64(picture()), "labels": labels, "box_threshold": 0})
    assert found(response) == list(zip(labels, range(6), strict=True))
    assert response.json()["results"][0]["labels"] == labels


def test_several_images_are_answered_in_their_order(client):
    colours = ["white", "black", "red"]
    response = client.post("/detect", files=form(*colours), data={"labels": "dog"})
    boxes = [result["detections"][0]["box"] for result in response.json()["results"]]
    alone = [
        client.post("/detect", files=form(colour), data={"labels": "dog"}).json()["results"][0]["detections"][0]["box"]
        for colour in colours
    ]
    assert boxes == alone
    assert len({tuple(box) for box in boxes}) == 3


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy", [5.0, 3.75, 35.0, 26.25]),
        ("xywh", [5.0, 3.75, 30.0, 22.5]),
        ("cxcywh", [20.0, 15.0, 30.0, 22.5]),
        ("xyxyn", [0.125, 0.125, 0.875, 0.875]),
        ("xywhn", [0.125, 0.125, 0.75, 0.75]),
        ("cxcywhn", [0.5, 0.5, 0.75, 0.75]),
    ],
)
def test_box_formats(client, box_format, box):
    response = client.post("/detect", files=form("white"), data={"labels": "dog", "box_format": box_format})
    assert response.json()["results"][0]["detections"][0]["box"] == box


def test_box_threshold_is_kept_to(client):
    body = {"image": b64(picture()), "labels": ["a", "b", "c"]}
    assert len(found(client.post("/detect", json=body | {"box_threshold": 0.75}))) == 2
    assert found(client.post("/detect", json=body | {"box_threshold": 1.0})) == []


def test_text_threshold_is_kept_to(client):
    body = {"image": b64(picture()), "labels": ["a", "b"]}

    def matched(threshold):
        response = client.post("/detect", json=body | {"text_threshold": threshold})
        return [d["matched"] for d in response.json()["results"][0]["detections"]]

    assert matched(0.85) == [[[0, 1]], []]


def test_max_detections_is_kept_to(client):
    body = {"image": b64(picture()), "labels": ["a", "b", "c"], "max_detections": 1}
    assert found(client.post("/detect", json=body)) == [("a", 0)]


def test_rotated_photo_is_answered_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = picture(size=(40, 30), form="JPEG", exif=exif)
    result = client.post("/detect", json={"image": b64(photo), "labels": ["dog"]}).json()["results"][0]
    assert (result["width"], result["height"]) == (30, 40)


def test_drawing_is_a_png_of_the_images_size(client):
    response = client.post("/detect", files=form("black"), data={"labels": "dog"}, headers=PNG)
    assert response.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == ("PNG", (40, 30))
    assert image.getcolors(10_000) != [(1200, (0, 0, 0))]


def test_drawing_several_images_is_refused(client):
    response = client.post("/detect", files=form("red", "blue"), data={"labels": "dog"}, headers=PNG)
    assert response.status_code == 422
    assert "drawing takes exactly one" in response.json()["detail"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "image/png;q=0.1, application/json", "application/*"])
def test_json_is_the_answer_unless_a_drawing_is_asked_for(client, accept):
    response = client.post("/detect", files=form("red"), data={"labels": "dog"}, headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"


def test_other_media_types_are_not_acceptable(client):
    response = client.post("/detect", files=form("red"), data={"labels": "dog"}, headers={"Accept": "text/html"})
    assert response.status_code == 406
    assert "application/json, image/png" in response.json()["detail"]


@pytest.mark.parametrize("extra", [{}, {"prompt": "a dog.", "labels": ["dog"]}])
def test_either_a_caption_or_labels(client, extra):
    response = client.post("/detect", json={"image": b64(picture()), **extra})
    assert response.status_code == 422
    assert "either 'prompt' or 'labels'" in response.json()["detail"]


def test_prompt_over_the_token_limit_is_refused_not_cut_where_one_pass_is_the_most(start):
    response = start(max_passes=1).post("/detect", json={"image": b64(picture()), "labels": ["dog"] * 40})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:openset:problem:prompt-too-long"
    assert "40 label(s) take 162 tokens, the model reads 64" in response.json()["detail"]


def test_caption_that_names_nothing_is_refused(client):
    response = client.post("/detect", json={"image": b64(picture()), "prompt": " . . "})
    assert (response.status_code, response.json()["type"]) == (422, "urn:openset:problem:unusable-prompt")


def test_prompt_features_are_cached_and_drop_with_the_bound(client, detector):
    for _ in range(3):
        client.post("/detect", files=form("red"), data={"labels": "dog"})
    assert len(detector.text_runs) == 2, "one at warm-up, one for the request"


def test_nms_is_kept_to(client, detector, monkeypatch):
    monkeypatch.setattr(
        FakeDetector, "_one", staticmethod(lambda image, prompt: _twice(FakeDetector_one(image, prompt)))
    )
    body = {"image": b64(picture()), "labels": ["dog"]}
    assert len(found(client.post("/detect", json=body | {"nms_iou": 1}))) == 2
    assert len(found(client.post("/detect", json=body | {"nms_iou": 0.5}))) == 1


def test_inclusive_edges_are_pixels_of_the_models_input(start, detector, monkeypatch):
    rules = detector.manifest.detection.model_copy(update={"box_edges": "inclusive"})
    monkeypatch.setattr(detector, "manifest", detector.manifest.model_copy(update={"detection": rules}))
    whole = np.asarray([[0.5, 0.5, 2, 2]], np.float32)
    monkeypatch.setattr(
        FakeDetector, "_one", staticmethod(lambda image, prompt: (FakeDetector_one(image, prompt)[0], whole))
    )
    result = (
        start().post("/detect", json={"image": b64(picture(size=(40, 30))), "labels": ["dog"]}).json()["results"][0]
    )
    # The model sees 42 x 32 pixels of it, the last of which are 41 and 31.
    assert result["detections"][0]["box"] == pytest.approx([0, 0, 41 * 40 / 42, 31 * 30 / 32], abs=0.01)


FakeDetector_one = FakeDetector._one


def _twice(output):
    return tuple(array.repeat(2, axis=0) for array in output)
