"""A link brings back the question that it was made of, whatever the labels are."""

from hypothesis import given, settings
from hypothesis import strategies as st

from .scripts import evaluate

BOTH = {"names": ["fragmentOf", "questionIn"], "of": "link.js"}
QUESTION = {
    "task": "detect",
    "model": "glip-mini",
    "compare": "grounding-dino-mini",
    "way": "labels",
    "texts": ["a & b", "#c=d", "犬 🐕", "50% off+"],
    "templates": [],
    "box_threshold": 0.35,
    "compare_threshold": 0.4,
    "nms_iou": 0,
    "max_detections": 7,
    "text_threshold": 0.25,
    "shorter": 200,
    "multi_label": False,
    "example": "rocket.jpg",
}


def test_link_keeps_labels_and_settings():
    assert evaluate("questionIn(fragmentOf(question))", question=QUESTION, **BOTH) == QUESTION


def test_link_has_the_caption_or_the_labels_not_both():
    question = QUESTION | {"way": "prompt", "prompt": "a dog. a cat."}
    found = evaluate("questionIn(fragmentOf(question))", question=question, **BOTH)
    assert (found["prompt"], found["texts"]) == ("a dog. a cat.", [])
    assert "prompt" not in evaluate("fragmentOf(question)", question=question | {"way": "labels"}, **BOTH).replace(
        "way", ""
    )


def test_options_that_are_not_set_are_not_in_the_link():
    question = {"task": "detect", "model": "m", "nms_iou": "", "texts": [], "multi_label": False}
    assert evaluate("fragmentOf(question)", question=question, **BOTH) == "#task=detect&model=m"


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()), max_size=4))
def test_labels_of_any_text_survive(labels):
    found = evaluate("questionIn(fragmentOf(question))", question=QUESTION | {"texts": labels}, **BOTH)
    assert found["texts"] == labels


def test_fragment_that_is_no_question_is_none():
    fragments = ["", "#", "#question", "#task=admin", "#task=detect%00", "#%E0%A4%A"]
    assert evaluate("fragments.map(questionIn)", fragments=fragments, **BOTH) == [None] * len(fragments)


def test_numbers_that_are_none_are_left_out():
    found = evaluate(
        "questionIn(fragment)", fragment="#task=detect&box_threshold=x&nms_iou=Infinity&max_detections=3", **BOTH
    )
    assert {"box_threshold", "nms_iou"}.isdisjoint(found)
    assert found["max_detections"] == 3
