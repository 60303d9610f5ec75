"""Open Inference endpoints over fake models; `tests/e2e/test_open_inference.py` uses a foreign client."""

import base64
import hashlib
import io
import json
import struct
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from tests.server.fakes import picture

DETECTOR, ENCODER = "/v2/models/fake-detector", "/v2/models/fake-encoder"
HEADER = "Inference-Header-Content-Length"


def encoded(**options):
    return base64.b64encode(picture(**options)).decode()


PICTURE = encoded()


def image(*pictures):
    return {"name": "image", "datatype": "BYTES", "shape": [len(pictures)], "data": list(pictures)}


def texts(name, *values):
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": list(values)}


def pixels(*shape, name="image", value=255):
    """A tensor of one value, and its bytes."""
    return {"name": name, "datatype": "UINT8", "shape": list(shape)}, bytes([value]) * int(np.prod(shape))


def infer_pixels(client, *shape, name="image"):
    inputs = [pixels(*shape, name=name), bytes_of("labels" if name == "image" else "image", b"dog")]
    return client.post(f"{DETECTOR}/infer", **with_binary(inputs))


def infer(client, *inputs, model=DETECTOR, **request):
    return client.post(f"{model}/infer", json={"inputs": list(inputs)} | request)


def outputs(response):
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


def refused(response, status=422):
    """The detail of a refusal, which has both forms."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["error"] == body["detail"]
    assert body["type"].startswith("urn:openset:problem:")
    return body["error"]


def with_binary(inputs, *, header=None, **request):
    """A body of JSON and what follows it; `inputs` are (input without data, bytes)."""
    described = [tensor | {"parameters": {"binary_data_size": len(data)}} for tensor, data in inputs]
    head = json.dumps({"inputs": described} | request).encode()
    body = head + b"".join(data for _, data in inputs)
    return {"content": body, "headers": {HEADER: str(len(head)) if header is None else header}}


def packed(*values):
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def bytes_of(name, *values):
    return {"name": name, "datatype": "BYTES", "shape": [len(values)]}, packed(*values)


def test_server_tells_its_name_and_extensions(client):
    answer = client.get("/v2").json()
    extensions = ["binary_tensor_data", "parameters"]
    assert answer == {"name": "openset", "version": version("openset"), "extensions": extensions}


def test_health_is_that_of_the_server(client, detector):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    client.app.state.registry.ready = False
    assert refused(client.get("/v2/health/ready"), 503)
    assert refused(client.get(f"{DETECTOR}/ready"), 503)
    assert refused(infer(client, image(encoded()), texts("labels", "dog")), 503)


def test_dead_worker_makes_its_model_and_the_server_unwell(client, monkeypatch):
    monkeypatch.setattr(client.app.state.registry, "dead", lambda: ["fake-detector"])
    assert "has died" in refused(client.get(f"{DETECTOR}/ready"), 503)
    assert "has died" in refused(client.get("/v2/health/live"), 503)
    assert client.get(f"{ENCODER}/ready").json() == {"name": "fake-encoder", "ready": True}


def test_metadata_of_a_detector_names_its_tensors(client):
    answer = client.get(DETECTOR).json()
    assert (answer["name"], answer["versions"], answer["platform"]) == ("fake-detector", ["1"], "openset")
    assert answer["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        {"name": "prompt", "datatype": "BYTES", "shape": [1]},
    ]
    assert [(o["name"], o["datatype"], o["shape"]) for o in answer["outputs"]] == [
        ("boxes", "FP32", [-1, 4]),
        ("scores", "FP32", [-1]),
        ("labels", "BYTES", [-1]),
        ("label_ids", "INT64", [-1]),
        ("image_index", "INT64", [-1]),
        ("image_sizes", "INT64", [-1, 2]),
    ]


def test_metadata_of_an_encoder_names_the_tensors_of_both_tasks(client):
    answer = client.get(ENCODER).json()
    assert [tensor["name"] for tensor in answer["inputs"]] == ["image", "labels", "templates", "texts"]
    names = ["scores", "similarity", "logit_scale", "image_embeds", "text_embeds"]
    assert [tensor["name"] for tensor in answer["outputs"]] == names


@pytest.mark.parametrize("path", ["", "/ready", "/infer"])
def test_version_is_the_models_own_or_unknown(client, path):
    def ask(version):
        url = f"{DETECTOR}/versions/{version}{path}"
        body = {"inputs": [image(encoded()), texts("labels", "dog")]}
        return client.post(url, json=body) if path == "/infer" else client.get(url)

    assert ask("1").status_code == 200
    assert refused(ask("2"), 404) == (
        "there is no model 'fake-detector' of version '2';"
        " the models are fake-detector (version 1), fake-encoder (version 1)"
    )


def test_unknown_model_is_not_found(client):
    assert "there is no model 'other'" in refused(client.get("/v2/models/other"), 404)
    assert "there is no model 'other'" in refused(client.post("/v2/models/other/infer", json={"inputs": []}), 404)


def test_detections_are_those_of_the_own_endpoint(client):
    own = client.post("/detect", json={"images": [encoded(), encoded(colour="blue")], "labels": ["dog", "cat"]}).json()
    response = infer(client, image(encoded(), encoded(colour="blue")), texts("labels", "dog", "cat"), id="42")
    tensors = outputs(response)
    assert (response.json()["id"], response.json()["model_name"], response.json()["model_version"]) == (
        "42",
        "fake-detector",
        "1",
    )
    found = [(place, each) for place, result in enumerate(own["results"]) for each in result["detections"]]
    assert len(found) == 4
    assert tensors["boxes"]["shape"] == [4, 4]
    assert tensors["boxes"]["data"] == [side for _, each in found for side in each["box"]]
    assert tensors["scores"]["data"] == [each["score"] for _, each in found]
    assert tensors["labels"]["data"] == [each["label"] for _, each in found]
    assert tensors["label_ids"]["data"] == [each["label_id"] for _, each in found]
    assert tensors["image_index"]["data"] == [place for place, _ in found]
    assert tensors["image_sizes"]["data"] == [30, 40, 30, 40]


def test_prompt_is_a_caption(client):
    tensors = outputs(infer(client, image(encoded()), texts("prompt", "a dog. a cat.")))
    assert tensors["labels"]["data"] == ["a dog", "a cat"]


def test_thresholds_are_parameters(client):
    parameters = {"box_threshold": 0.85, "box_format": "cxcywh"}
    tensors = outputs(infer(client, image(encoded()), texts("labels", "dog", "cat"), parameters=parameters))
    assert tensors["labels"]["data"] == ["dog"]
    x, y, *_ = tensors["boxes"]["data"]
    assert (x, y) == (20, 15)


def test_nothing_found_is_tensors_of_no_rows(client):
    tensors = outputs(infer(client, image(encoded()), texts("labels", "dog"), parameters={"box_threshold": 1}))
    assert (tensors["boxes"]["shape"], tensors["boxes"]["data"]) == ([0, 4], [])
    assert tensors["image_sizes"]["shape"] == [1, 2]


def test_scores_of_labels_stand_in_their_order(client):
    pictures = [encoded(colour="red"), encoded(colour="blue")]
    own = client.post("/classify", json={"images": pictures, "labels": ["b", "r"]}).json()
    tensor = outputs(infer(client, image(*pictures), texts("labels", "b", "r"), model=ENCODER))["scores"]
    assert tensor["shape"] == [2, 2]
    by_label = [{each["label"]: each["score"] for each in result["scores"]} for result in own["results"]]
    assert tensor["data"] == [scores[label] for scores in by_label for label in "br"]
    assert tensor["data"][1] > tensor["data"][0]


def test_templates_and_multi_label_reach_the_classification(client):
    labels, templates = texts("labels", "r", "b"), texts("templates", "{} g", "{}")
    tensors = infer(client, image(encoded()), labels, templates, model=ENCODER, parameters={"multi_label": True})
    body = {"image": encoded(), "labels": ["r", "b"], "templates": ["{} g", "{}"], "multi_label": True}
    own = client.post("/classify", json=body).json()["results"][0]["scores"]
    assert sorted(outputs(tensors)["scores"]["data"], reverse=True) == [each["score"] for each in own]


def test_texts_are_compared_and_embeddings_come_along(client):
    body = {"image": encoded(), "texts": ["r", "g"], "embeddings": True}
    own = client.post("/similarity", json=body).json()
    tensors = outputs(infer(client, image(encoded()), texts("texts", "r", "g"), model=ENCODER))
    assert tensors["similarity"]["data"] == own["similarity"][0]
    assert tensors["logit_scale"]["data"] == [own["logit_scale"]]
    assert tensors["image_embeds"]["data"] == own["embeddings"]["images"][0]
    assert tensors["text_embeds"]["shape"] == [2, 3]


def test_only_the_outputs_that_are_named_come_in_that_order(client):
    asked = [{"name": "labels"}, {"name": "scores"}]
    response = infer(client, image(encoded()), texts("labels", "dog"), outputs=asked)
    assert list(outputs(response)) == ["labels", "scores"]


def test_pixels_are_answered_as_the_same_picture_encoded(client):
    white = infer(client, image(encoded(colour="white")), texts("labels", "dog"))
    assert outputs(infer_pixels(client, 30, 40, 3)) == outputs(white)
    batch = outputs(infer_pixels(client, 2, 30, 40, 3))
    assert batch["image_index"]["data"] == [0, 1]


def test_pixels_keep_their_channels_and_rows(client):
    array = np.zeros((4, 5, 3), np.uint8)
    array[:, :, 0], array[1, 2, 2] = 200, 90
    body = with_binary(
        [({"name": "image", "datatype": "UINT8", "shape": [4, 5, 3]}, array.tobytes()), bytes_of("texts", b"r")]
    )
    tensors = outputs(client.post(f"{ENCODER}/infer", **body))
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    own = client.post("/similarity", json={"image": png, "texts": ["r"], "embeddings": True}).json()
    assert tensors["image_embeds"]["data"] == own["embeddings"]["images"][0]


def test_tensors_may_follow_the_json_both_ways(client):
    body = with_binary(
        [bytes_of("image", picture()), bytes_of("labels", b"dog", "kät".encode())],
        parameters={"binary_data_output": True},
        outputs=[{"name": "labels"}, {"name": "boxes"}, {"name": "scores", "parameters": {"binary_data": False}}],
    )
    response = client.post(f"{DETECTOR}/infer", **body)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    labels, boxes, scores = json.loads(response.content[:length])["outputs"]
    assert labels["parameters"] == {"binary_data_size": 4 + 3 + 4 + 4}
    assert boxes["parameters"] == {"binary_data_size": 2 * 4 * 4}
    assert (len(scores["data"]), "parameters" in scores, "data" in boxes) == (2, False, False)
    tail = response.content[length:]
    assert tail[:15] == packed(b"dog", "kät".encode())
    own = client.post("/detect", json={"image": encoded(), "labels": ["dog", "kät"]}).json()["results"][0]["detections"]
    assert np.allclose(np.frombuffer(tail[15:], "<f4").reshape(2, 4), [each["box"] for each in own])


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"inputs": []}, "image: this input is required"),
        ({"inputs": [image(PICTURE)]}, "give either 'prompt' or 'labels'"),
        ({"inputs": [image(), texts("labels", "dog")]}, "with at least one image"),
        ({"inputs": [image("?"), texts("labels", "dog")]}, "images.0: the image is not valid base64"),
        ({"inputs": [image("x"), texts("prompt", "a", "b")]}, "prompt: it has 2 values, but must have one"),
        ({"inputs": [image("x"), texts("lables", "dog")]}, "lables: there is no such input in detect; there are"),
        ({"inputs": [image("x"), image("x")]}, "image: this input is given twice"),
        ({"inputs": [image("x"), texts("labels", 3)]}, "inputs.1.data: data must be strings, flat or in rows, at most"),
        ({"inputs": [image("x") | {"datatype": "UINT8"}]}, "image: pixels must be sent as bytes behind the JSON"),
        ({"inputs": [image("x") | {"shape": [2]}]}, "image: its shape '[2]' has 2 values, but 1 were sent"),
        ({"inputs": [image("x") | {"shape": [-1]}]}, "inputs.0.shape.0: Input should be greater than or equal to 0"),
        ({"inputs": [image("x") | {"datatype": "FP64"}]}, "image: its datatype is 'FP64': BYTES and UINT8 are"),
        ({"inputs": [image("x") | {"data": None}]}, "image: it has neither data nor a binary_data_size"),
        ({"inputs": [image("x") | {"parameters": {"shared_memory_region": "a"}}]}, "inputs.0.parameters.shared"),
        ({"inputs": [image("x") | {"parameters": {"binary_data_size": -1}}]}, "inputs.0.parameters.binary_data_size: "),
        ({"inputs": [image("x") | {"parameters": {"binary_data_size": 1}}]}, "it has both data and a binary_data_size"),
        ({"inputs": [], "outputs": [{"name": "a", "parameters": {"classification": 2}}]}, "parameters.classification"),
        ({"inputs": [], "outputs": [{"name": "a", "parameters": {"binary_data": 1}}]}, "parameters.binary_data: "),
        ({"inputs": [], "parameters": {"binary_data_output": "yes"}}, "binary_data_output: this parameter must be"),
        ({"inputs": [image("x"), texts("labels", "a")], "parameters": {"thresh": 1}}, "there is no such parameter"),
        ({"inputs": [image("x"), texts("labels", "a")], "parameters": {"box_threshold": 2}}, "box_threshold: Input"),
        ({"inputs": [image("x"), texts("labels", "a")], "outputs": [{"name": "masks"}]}, "masks: there is no such"),
        ({"inputs": [image("x")], "more": 1}, "more: there is no such field"),
        ({}, "inputs: Field required"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(client, request_, reason):
    assert reason in refused(client.post(f"{DETECTOR}/infer", json=request_))


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("image", (4, 4), "image: its shape is '[4, 4]': it must be [H, W, 3] or [N, H, W, 3], RGB"),
        ("image", (4, 0, 3), "image: its shape '[4, 0, 3]' has no values"),
        ("image", (4, 4, 4), "image: its shape is '[4, 4, 4]': it must be"),
        ("labels", (3,), "labels: its datatype is UINT8: texts must be BYTES"),
    ],
)
def test_pixels_of_another_shape_or_place_are_refused(client, name, shape, reason):
    assert reason in refused(infer_pixels(client, *shape, name=name))


def test_body_full_of_numbers_is_refused_at_the_first(client):
    body = b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [9], "data": [' + b"1," * 10**6 + b"1]}]}"
    assert "numbers go as bytes behind it" in refused(client.post(f"{DETECTOR}/infer", content=body))
    body = body.replace(b"1," * 10**6, b"1," * 1000)
    assert "send numbers as bytes, with a binary_data_size" in refused(client.post(f"{DETECTOR}/infer", content=body))


def test_texts_and_labels_at_once_are_two_tasks(client):
    told = refused(infer(client, image("x"), texts("texts", "a"), texts("labels", "b"), model=ENCODER))
    assert told == "labels: there is no such input in similarity; there are image, texts"


@pytest.mark.parametrize("length", ["-1", "9" * 30, "1.5", "100000", "", "٣"])
def test_wrong_length_of_the_json_is_refused(client, length):
    body = with_binary([bytes_of("image", b"x")], header=length.encode())
    assert "it must be the length of the JSON" in refused(client.post(f"{DETECTOR}/infer", **body), 400)


def test_bytes_that_no_tensor_claims_are_refused(client):
    body = with_binary([bytes_of("image", picture()), bytes_of("labels", b"dog")])
    told = refused(client.post(f"{DETECTOR}/infer", content=body["content"] + b"!", headers=body["headers"]), 400)
    assert told == "1 bytes follow the tensors: is each binary_data_size right?"
    told = refused(client.post(f"{DETECTOR}/infer", content=body["content"][:-1], headers=body["headers"]))
    assert told.startswith("labels: its binary_data_size is 7, but only 6 bytes follow")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x01\x00", "its last value has no complete length before it"),
        (b"\x09\x00\x00\x00abc", "a value is longer than the remaining bytes"),
        (packed(b"a", b"b"), "its shape '[1]' has 1 values, but 2 were sent"),
    ],
)
def test_damaged_bytes_are_refused(client, data, reason):
    body = with_binary([({"name": "labels", "datatype": "BYTES", "shape": [1]}, data)])
    assert reason in refused(client.post(f"{DETECTOR}/infer", **body))


def test_text_that_is_not_utf8_is_refused(client):
    body = with_binary([bytes_of("image", picture()), bytes_of("labels", b"\xff")])
    assert refused(client.post(f"{DETECTOR}/infer", **body)) == "labels: a text is not UTF-8"


def test_body_that_is_no_json_or_packed_is_refused(client):
    assert "the body is not JSON" in refused(client.post(f"{DETECTOR}/infer", content=b"{"), 400)
    nested = b'{"inputs": [{"data": ' + b"[" * 1000 + b"]" * 1000 + b"}]}"
    assert refused(client.post(f"{DETECTOR}/infer", content=nested), 400)
    told = refused(client.post(f"{DETECTOR}/infer", content=b"", headers={"Content-Encoding": "br"}), 415)
    assert told == "content encoding 'br' is not supported: send gzip, deflate or none"


def test_deadline_and_other_wishes_hold_here_too(client, detector):
    body = {"inputs": [image(encoded()), texts("labels", "dog")]}
    told = client.post(f"{DETECTOR}/infer", json=body, headers={"X-Request-Timeout-Ms": "soon"})
    assert "whole number of milliseconds" in refused(told)
    answer = client.post(f"{DETECTOR}/infer", json=body, headers={"X-Request-ID": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    assert "infer;dur=" in answer.headers["server-timing"]


def test_limits_of_a_request_hold_here_too(start):
    client = start(max_images=1, max_labels=1)
    assert "at most 1" in refused(infer(client, image(encoded(), encoded()), texts("labels", "dog")))
    assert "at most 1" in refused(infer(client, image(encoded()), texts("labels", "dog", "cat")))


def test_body_over_the_limit_is_refused_in_both_forms(start):
    client = start(max_body_bytes=1024)
    assert "more than 1024 bytes" in refused(client.post(f"{DETECTOR}/infer", content=b"x" * 2000), 413)


def test_keys_are_needed_but_for_health(start, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"alice {hashlib.sha256(b'key').hexdigest()}")
    client = start(api_keys_file=keys)
    assert client.get("/v2/health/ready").status_code == 200
    for path in ("/v2", DETECTOR, f"{DETECTOR}/ready"):
        refused(client.get(path), 401)
    refused(client.post(f"{DETECTOR}/infer", json={}), 401)


def test_metrics_name_the_address_and_never_the_path(client):
    infer(client, image(encoded()), texts("labels", "dog"))
    client.get("/v2/models/secret-name")
    client.get("/v2/models/secret-name/versions/7/ready")
    told = client.get("/metrics").text
    assert 'openset_requests_total{endpoint="/v2/models/:name/infer",status="200"} 1.0' in told
    assert 'openset_requests_total{endpoint="/v2/models/:name",status="404"} 2.0' in told
    assert "secret" not in told
