"""Requests of the vision endpoints: one source of images, or none where texts are enough."""

import pytest
from pydantic import ValidationError

from server.request_fields import EXAMPLE_IMAGE
from server.requests import ClassifyRequest, DetectRequest, EmbedRequest

URL = "https://a.example/1.jpg"


@pytest.mark.parametrize(
    "sources", [{}, {"image": EXAMPLE_IMAGE, "images": [EXAMPLE_IMAGE]}, {"image": EXAMPLE_IMAGE, "image_url": URL}]
)
def test_request_has_one_source_of_images(sources):
    with pytest.raises(ValidationError, match="give one of 'image'"):
        ClassifyRequest(labels=["dog"], **sources)


def test_texts_are_enough_to_embed():
    assert EmbedRequest(texts=["a dog"]).pictures == ()
    assert EmbedRequest(image_url=URL).urls == (URL,)
    with pytest.raises(ValidationError, match="give images, 'texts' or both"):
        EmbedRequest()
    with pytest.raises(ValidationError, match="give one of 'image'"):
        EmbedRequest(image=EXAMPLE_IMAGE, image_url=URL)


@pytest.mark.parametrize("value", ["0.3,,1", "[0.3, null, 1]", "0.3, null, 1", [0.3, None, 1]])
def test_thresholds_of_labels_are_listed_like_labels(value):
    request = DetectRequest(image=EXAMPLE_IMAGE, labels="a,b,c", label_thresholds=value)
    assert request.label_thresholds == (0.3, None, 1)


@pytest.mark.parametrize("value", [[2], "high", [[0.5]], "0.1,-1"])
def test_threshold_that_is_no_share_is_refused(value):
    with pytest.raises(ValidationError, match="label_thresholds"):
        DetectRequest(image=EXAMPLE_IMAGE, labels="a", label_thresholds=value)


@pytest.mark.parametrize("value", [{"cow": 0.9}, 0.9, "cow=0.9", '{"cow": 0.9}'])
def test_thresholds_by_label_are_refused_with_the_form_that_is_accepted(value):
    with pytest.raises(ValidationError, match=r"one number for each label, in their order, like \[0\.4, null\]"):
        DetectRequest(image=EXAMPLE_IMAGE, labels="cow", label_thresholds=value)


def test_errors_are_raised_unless_they_are_skipped():
    assert DetectRequest(image=EXAMPLE_IMAGE, labels="a").on_error == "raise"
    with pytest.raises(ValidationError, match="on_error"):
        DetectRequest(image=EXAMPLE_IMAGE, labels="a", on_error="ignore")
