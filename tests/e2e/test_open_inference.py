"""The Open Inference Protocol, asked by Triton's Python client, over the bundled models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "server/examples"
DETECTOR, CLIP = "grounding-dino-mini", "clip-mini"


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.base_url.netloc.decode(), network_timeout=120) as opened:
        yield opened


def of_bytes(name, *values, binary=True):
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    return tensor.set_data_from_numpy(np.array(values, dtype=object), binary_data=binary)


def of_pixels(*paths):
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return triton.InferInput("image", list(pixels.shape), "UINT8").set_data_from_numpy(pixels)


def scene():
    return (EXAMPLES / "scene.jpg").read_bytes()


def test_server_and_models_are_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(DETECTOR)
    assert client.is_model_ready(CLIP, "1")
    assert not client.is_model_ready("other")


def test_metadata_tells_the_extensions_and_the_tensors(client):
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(DETECTOR)
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "labels", "prompt"]


def test_detections_are_those_of_the_own_endpoint(client, server):
    result = client.infer(
        DETECTOR, [of_bytes("image", scene()), of_bytes("labels", "house", "airplane", "banana")], request_id="17"
    )
    fields = {"labels": ["house", "airplane", "banana"], "model": DETECTOR}
    own = server.post("/detect", files={"image": scene()}, data=fields).json()["results"][0]["detections"]
    assert {each["label"] for each in own} == {"house", "airplane"}
    assert result.get_response()["id"] == "17"
    assert [label.decode() for label in result.as_numpy("labels")] == [each["label"] for each in own]
    assert result.as_numpy("label_ids").tolist() == [each["label_id"] for each in own]
    assert np.allclose(result.as_numpy("boxes"), [each["box"] for each in own], atol=0.02)
    assert np.allclose(result.as_numpy("scores"), [each["score"] for each in own], atol=1e-5)
    assert result.as_numpy("image_sizes").tolist() == [[480, 640]]


def test_pixels_are_as_good_as_their_file(client):
    labels = of_bytes("labels", "dog", "bicycle")
    of_file = client.infer(DETECTOR, [of_bytes("image", scene()), labels])
    both = client.infer(DETECTOR, [of_pixels(EXAMPLES / "scene.jpg", EXAMPLES / "scene.jpg"), labels])
    count = len(of_file.as_numpy("scores"))
    assert both.as_numpy("image_index").tolist() == [0] * count + [1] * count
    assert np.allclose(both.as_numpy("boxes")[:count], of_file.as_numpy("boxes"), atol=0.05)


def test_nothing_found_is_empty_tensors(client):
    inputs = [of_bytes("image", scene()), of_bytes("prompt", "a banana.")]
    result = client.infer(DETECTOR, inputs, parameters={"box_threshold": 1.0})
    assert result.as_numpy("boxes").shape == (0, 4)
    assert result.as_numpy("labels").shape == (0,)


def test_json_is_as_good_as_bytes(client):
    inputs = [of_pixels(EXAMPLES / "dog.jpg"), of_bytes("labels", "dog", "cat", binary=False)]
    outputs = [triton.InferRequestedOutput("scores", binary_data=False)]
    as_json = client.infer(CLIP, inputs, outputs=outputs)
    assert as_json.get_output("scores")["data"]
    assert np.allclose(as_json.as_numpy("scores"), client.infer(CLIP, inputs).as_numpy("scores"), atol=1e-6)
    assert as_json.as_numpy("scores")[0].argmax() == 0


def test_texts_are_compared_and_embeddings_have_unit_length(client):
    image = (EXAMPLES / "dog.jpg").read_bytes()
    result = client.infer(CLIP, [of_bytes("image", image), of_bytes("texts", "a puppy", "a rocket")])
    images, texts = result.as_numpy("image_embeds"), result.as_numpy("text_embeds")
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert np.allclose(result.as_numpy("similarity"), images @ texts.T, atol=1e-5)


def test_many_at_once_share_model_runs_and_are_each_answered(client):
    handles = [client.async_infer(CLIP, [of_pixels(EXAMPLES / "dog.jpg"), of_bytes("labels", *"ab")]) for _ in "123"]
    scores = [handle.get_result().as_numpy("scores") for handle in handles]
    assert np.allclose(scores[0], scores[1:], atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "status", "reason"),
    [
        (lambda: [of_bytes("image", b"no picture"), of_bytes("labels", "dog")], 415, "not a picture"),
        (lambda: [of_bytes("image", scene())], 422, "give either 'prompt' or 'labels'"),
        (lambda: [of_bytes("picture", scene())], 422, "picture: there is no such input in detect"),
    ],
)
def test_what_is_wrong_reaches_the_client(client, inputs, status, reason):
    with pytest.raises(InferenceServerException, match=reason) as refusal:
        client.infer(DETECTOR, inputs())
    assert refusal.value.status() == str(status)


def test_unknown_model_reaches_the_client(client):
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.infer("other", [of_bytes("labels", "dog")])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies_are_read_and_answers_come_plain(client, algorithm):
    inputs = [of_bytes("image", scene()), of_bytes("labels", "dog")]
    packed = client.infer(DETECTOR, inputs, request_compression_algorithm=algorithm)
    plain = client.infer(DETECTOR, inputs, response_compression_algorithm=algorithm)
    assert packed.as_numpy("scores") == pytest.approx(plain.as_numpy("scores"), abs=1e-4)
