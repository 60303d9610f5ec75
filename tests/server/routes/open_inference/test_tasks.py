"""Tensors of the tasks: the requests that they become, and the refusals of others."""

import io

import numpy as np
import pytest
from PIL import Image

from server.errors import InvalidRequest
from server.request_context import RequestContext
from server.requests import ClassifyRequest, DetectRequest, SimilarityRequest
from server.routes.open_inference.schemas import InferRequest
from server.routes.open_inference.tasks import as_request, inputs_of, outputs_of, read_scheduling, task_of
from server.routes.open_inference.tensors import ParsedRequest
from server.settings import Settings
from tests.server.fakes import picture

ENCODER, DETECTOR = frozenset(("classify", "similarity")), frozenset(("detect",))


def shapes(tensors):
    return {tensor.name: (tensor.datatype, tensor.shape) for tensor in tensors}


def made(task, contents, **fields):
    parsed = ParsedRequest(InferRequest(inputs=[], **fields), {"image": [picture()]} | contents, {})
    return as_request(task, "m", parsed, Settings())


def test_metadata_has_the_tensors_of_all_tasks_once():
    assert shapes(inputs_of(DETECTOR)) == {
        "image": ("BYTES", [-1]), "labels": ("BYTES", [-1]), "prompt": ("BYTES", [1])
    }  # fmt: skip
    assert list(shapes(inputs_of(ENCODER))) == ["image", "labels", "templates", "texts"]
    assert shapes(outputs_of(DETECTOR))["boxes"] == ("FP32", [-1, 4])
    assert {"scores", "similarity", "image_embeds", "text_embeds"} <= set(shapes(outputs_of(ENCODER)))


@pytest.mark.parametrize(
    ("tasks", "inputs", "task"),
    [(DETECTOR, "texts", "detect"), (ENCODER, "texts", "similarity"), (ENCODER, "labels", "classify")],
)
def test_inputs_choose_among_the_tasks_of_a_model(tasks, inputs, task):
    assert task_of(tasks, {"image": [], inputs: []}) == task


def test_parameters_and_texts_become_fields_of_the_request():
    request = made("detect", {"prompt": ["a dog."]}, parameters={"box_threshold": 0.3, "binary_data_output": True})
    assert request == DetectRequest(images=(picture(),), model="m", prompt="a dog.", box_threshold=0.3)
    request = made("classify", {"labels": [b"dog", "k\u00e4t".encode()]}, parameters={"multi_label": True})
    assert request == ClassifyRequest(images=(picture(),), model="m", labels=("dog", "k\u00e4t"), multi_label=True)


def test_every_option_of_one_value_that_changes_a_detection_is_a_parameter():
    answered_otherwise = {"on_error", "label_scores"}
    options = {
        name: field.default
        for name, field in DetectRequest.model_fields.items()
        if name not in answered_otherwise | {"image", "image_url", "model", "prompt"}
        and not isinstance(field.default, tuple)
    }
    values = {name: default if default is not None else 1 for name, default in options.items()}
    assert {"shorter", "longer", "nms_across_labels"} <= values.keys()
    request = made("detect", {"prompt": ["a dog."]}, parameters=values)
    assert {name: getattr(request, name) for name in values} == values


@pytest.mark.parametrize(
    ("outputs", "embeddings"), [(None, True), (["similarity"], False), (["similarity", "text_embeds"], True)]
)
def test_embeddings_are_computed_only_if_they_are_an_output(outputs, embeddings):
    named = None if outputs is None else [{"name": name} for name in outputs]
    request = made("similarity", {"texts": ["dog"]}, outputs=named)
    assert request == SimilarityRequest(images=(picture(),), model="m", texts=("dog",), embeddings=embeddings)


@pytest.mark.parametrize("count", [1, 2])
def test_pixels_become_images_that_keep_them(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    request = made("detect", {"image": pixels[0] if count == 1 else pixels, "labels": ["dog"]})
    decoded = [np.asarray(Image.open(io.BytesIO(image))) for image in request.pictures]
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("contents", "fields", "reason"),
    [
        ({"texts": ["dog"]}, {}, "texts: there is no such input in detect; there are image, labels, prompt"),
        ({"labels": ["dog"]}, {"parameters": {"top_k": 1}}, "top_k: there is no such parameter in detect"),
        ({"labels": ["dog"]}, {"outputs": [{"name": "masks"}]}, "masks: there is no such output in detect"),
        ({"labels": [b"\xff"]}, {}, "labels: a text is not UTF-8"),
        ({"prompt": ["a", "b"]}, {}, "prompt: it has 2 values, but must have one"),
        ({"labels": np.zeros(3, np.uint8)}, {}, "labels: its datatype is UINT8"),
        ({"image": np.zeros((2, 2), np.uint8), "labels": ["dog"]}, {}, "image: its shape is '[2, 2]'"),
        ({}, {}, "give either 'prompt' or 'labels'"),
        ({"image": np.zeros((17, 1, 1, 3), np.uint8), "labels": ["dog"]}, {}, "17 images, at most 16"),
        ({"labels": ["dog"]}, {"parameters": {"priority": "high"}}, "priority: this parameter must be a whole number"),
        ({"labels": ["dog"]}, {"parameters": {"timeout": 0.5}}, "timeout: this parameter must be a whole number"),
        ({"labels": ["dog"]}, {"parameters": {"timeout": -1}}, "timeout: this parameter must be a whole number"),
    ],
)
def test_wrong_tensors_are_refused_by_name(contents, fields, reason):
    with pytest.raises(InvalidRequest) as refusal:
        made("detect", contents, **fields)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("parameters", "priority", "timeout_s"),
    [
        ({}, "batch", 8),
        ({"priority": 0, "timeout": 0}, "batch", 8),
        ({"priority": 1}, "interactive", 8),
        ({"priority": 2, "timeout": 2_500_000}, "batch", 2.5),
        ({"timeout": 9_000_000}, "batch", 8),
    ],
)
def test_priority_and_timeout_of_triton_mean_the_headers(parameters, priority, timeout_s):
    context = RequestContext(priority="batch", timeout_s=8)
    read_scheduling(parameters, context)
    assert (context.priority, context.timeout_s) == (priority, timeout_s)
