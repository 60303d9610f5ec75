"""Schemas: the images, texts and options that a request may have, and the reasons given for others."""

import base64

import pytest
from pydantic import ValidationError

from server.request_fields import EXAMPLE_IMAGE
from server.requests import ClassifyRequest, DetectRequest, SimilarityRequest
from server.settings import MAX_ITEMS

IMAGE = base64.b64encode(b"picture").decode()


def reasons(model, **fields):
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    return [error["msg"] for error in caught.value.errors()]


@pytest.mark.parametrize(
    "given",
    [b"picture", IMAGE, f"{IMAGE[:4]}\n{IMAGE[4:]}\n", f"data:image/png;base64,{IMAGE}", f"DATA:;base64,{IMAGE}"],
)
def test_image_is_bytes_base64_or_a_data_url(given):
    assert DetectRequest(image=given, labels=["dog"]).pictures == (b"picture",)


@pytest.mark.parametrize(
    ("given", "reason"), [("???", "not valid base64"), ("data:,x", "not valid base64"), (7, "text")]
)
def test_other_values_are_no_image(given, reason):
    (message,) = reasons(DetectRequest, image=given, labels=["dog"])
    assert reason in message


def test_example_is_an_image_of_the_documentation_that_can_be_sent():
    (picture,) = DetectRequest(image=EXAMPLE_IMAGE, labels=["dog"]).pictures
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "images",
    [{}, {"images": []}, {"image": IMAGE, "images": [IMAGE]}, {"image": IMAGE, "image_url": "https://a.example/"}],
)
def test_images_come_from_exactly_one_field(images):
    (message,) = reasons(DetectRequest, labels=["dog"], **images)
    assert message.startswith("give one of 'image', 'images', 'image_url' and 'image_urls'")


def test_urls_stand_for_images_in_their_order():
    assert DetectRequest(image_urls=["https://a", "https://b"], labels=["dog"]).urls == ("https://a", "https://b")
    assert DetectRequest(image_url="https://a", labels=["dog"]).urls == ("https://a",)


@pytest.mark.parametrize("prompts", [{}, {"prompt": "a dog.", "labels": ["dog"]}])
def test_detection_has_either_a_prompt_or_labels(prompts):
    assert reasons(DetectRequest, image=IMAGE, **prompts) == ["give either 'prompt' or 'labels'"]


@pytest.mark.parametrize(
    ("model", "fields", "reason"),
    [
        (ClassifyRequest, {"labels": []}, "give at least one"),
        (ClassifyRequest, {"labels": ["dog", " "]}, "a text must contain a visible character"),
        (ClassifyRequest, {"labels": ["x" * 1001]}, "String should have at most 1000 characters"),
        (ClassifyRequest, {"labels": ["dog"], "templates": ["a dog"]}, "a template must contain {}"),
        (ClassifyRequest, {"labels": ["dog"], "top_k": 0}, "greater than or equal to 1"),
        (DetectRequest, {"labels": ["dog"], "box_threshold": float("nan")}, "finite number"),
        (DetectRequest, {"labels": ["dog"], "nms_iou": 1.1}, "less than or equal to 1"),
        (DetectRequest, {"labels": ["dog"], "threshold": 0.3}, "Extra inputs are not permitted"),
        (DetectRequest, {"labels": ["dog"], "box_format": "yxyx"}, "'xyxy', 'xywh', 'cxcywh'"),
        (SimilarityRequest, {"texts": ["x"] * (MAX_ITEMS + 1)}, "at most 100000 items"),
    ],
)  # fmt: skip
def test_wrong_field_is_refused_with_the_reason(model, fields, reason):
    (message,) = reasons(model, image=IMAGE, **fields)
    assert reason in message


def test_list_of_many_wrong_items_is_reported_once():
    assert len(reasons(ClassifyRequest, image=IMAGE, labels=[""] * 1000)) == 1


def test_refusal_holds_no_value_of_the_request():
    with pytest.raises(ValidationError) as caught:
        DetectRequest(image=IMAGE, labels=["dog"], box_threshold="zebra")
    assert "zebra" not in str(caught.value)
