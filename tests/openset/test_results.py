"""Answers with the server's fields, and detections in the forms of other tools."""

import json
import sys
import types
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset import ImageDetections, results
from server import requests, schemas
from server.inference.responses import format_box

from .conftest import DOG

CAT = DOG | {"box": [0.1, 0.2, 0.4, 0.3], "label": "cat", "label_id": 0, "score": 0.5}


def found(*detections):
    return ImageDetections.model_validate(
        {"width": 64, "height": 80, "labels": ["cat", "dog"], "detections": list(detections)}
    )  # fmt: skip


@dataclass
class FakeDetections:
    """The fields of `supervision.Detections` that its documentation names."""

    xyxy: np.ndarray
    mask: np.ndarray | None = None
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict[str, Any] | None = None


@pytest.fixture(params=["documented fields", "the package"])
def supervision(request, monkeypatch):
    if request.param == "the package":
        return pytest.importorskip("supervision", reason="supervision is not installed")
    module = types.ModuleType("supervision")
    monkeypatch.setattr(module, "Detections", FakeDetections, raising=False)
    monkeypatch.setitem(sys.modules, "supervision", module)
    return module


ANSWERS = {
    results.Detection: schemas.DetectionBody,
    results.ImageDetections: schemas.ImageDetections,
    results.DetectAnswer: schemas.DetectAnswer,
    results.ImageScores: schemas.ImageScores,
    results.LabelScore: schemas.LabelScore,
    results.ClassifyAnswer: schemas.ClassifyAnswer,
    results.Embeddings: schemas.Embeddings,
    results.SimilarityAnswer: schemas.SimilarityAnswer,
    results.ModelId: schemas.ModelId,
    results.ServedModel: schemas.ModelBody,
    results.ModelsAnswer: schemas.ModelsAnswer,
    results.FieldProblem: schemas.FieldProblem,
}


@pytest.mark.parametrize(("ours", "servers"), ANSWERS.items(), ids=lambda kind: kind.__name__)
def test_answers_have_the_servers_fields(ours, servers):
    assert list(ours.model_fields) == list(servers.model_fields)
    for name, field in ours.model_fields.items():
        assert field.is_required() == servers.model_fields[name].is_required(), name
        default = servers.model_fields[name].default
        assert field.default == ([] if default is None and isinstance(field.default, list) else default), name


BOX = st.tuples(*[st.floats(-10, 5000)] * 4)


@given(BOX, st.sampled_from(get_args(results.BoxFormat)), st.integers(1, 9000), st.integers(1, 9000))
def test_boxes_are_those_that_the_server_would_send_in_every_format(box, box_format, width, height):
    found = ImageDetections(width=width, height=height, labels=["dog"], detections=[DOG | {"box": box}])
    assert found.boxes(box_format) == [format_box(box, box_format, size=(height, width))]


def test_box_formats_are_the_servers():
    assert get_args(results.BoxFormat) == get_args(requests.BoxFormat)


def test_boxes_come_in_every_format():
    assert found(DOG).boxes() == [tuple(DOG["box"])]
    assert found(DOG).boxes("cxcywh") == [(25.12, 40.25, 30.25, 39.5)]
    assert found(DOG).boxes("xywhn") == [(0.15625, 0.25625, 0.472656, 0.49375)]


def test_coco_has_corner_and_size_and_counts_categories_from_one():
    assert found(DOG, CAT).to_coco(image_id=9) == [
        {"image_id": 9, "category_id": 2, "bbox": [10.0, 20.5, 30.25, 39.5], "score": 0.75},
        {"image_id": 9, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.1], "score": 0.5},
    ]


def test_coco_takes_categories_by_label():
    assert [each["category_id"] for each in found(DOG, CAT).to_coco(image_id=1, categories={"dog": 18, "cat": 17})] == [
        18,
        17,
    ]


def test_coco_refuses_categories_that_lack_a_label():
    with pytest.raises(ValueError, match="no id for 'cat'"):
        found(DOG, CAT).to_coco(image_id=1, categories={"dog": 18})


def test_coco_can_be_written_as_json():
    assert json.loads(json.dumps(found(DOG).to_coco(image_id=1)))[0]["score"] == 0.75
    assert found().to_coco(image_id=1) == []


def test_coco_results_are_what_pycocotools_reads():
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    truth = pycocotools.COCO()
    truth.dataset = {"images": [{"id": 1}], "categories": [{"id": 2, "name": "dog"}], "annotations": []}
    truth.createIndex()
    (read,) = truth.loadRes(found(DOG).to_coco(image_id=1)).dataset["annotations"]
    assert read["area"] == 30.25 * 39.5


def test_supervision_gets_corners_scores_places_and_labels(supervision):
    detections = found(DOG, CAT).to_supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy, np.float32([DOG["box"], CAT["box"]]))
    assert detections.confidence.tolist() == [0.75, 0.5]
    assert detections.class_id.tolist() == [1, 0]
    assert detections.data["class_name"].tolist() == ["dog", "cat"]


def test_supervision_gets_an_empty_answer_too(supervision):
    detections = found().to_supervision()
    assert detections.xyxy.shape == (0, 4)
    assert len(detections.confidence) == len(detections.class_id) == len(detections.data["class_name"]) == 0


def test_supervision_itself_can_filter_and_annotate():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    detections = found(DOG, CAT).to_supervision()
    assert detections[detections.confidence > 0.6].data["class_name"].tolist() == ["dog"]
    scene = np.zeros((80, 64, 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), detections)
    assert drawn[20:22, 10:40].any()
    assert not drawn[62:].any()


def test_absent_supervision_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="pip install supervision"):
        found(DOG).to_supervision()
