"""Field names from elsewhere lead to the field that was meant."""

import pytest

from server.contract.field_names import _MEANT, no_such_field
from server.requests import ClassifyRequest, DetectRequest, SimilarityRequest
from server.schemas import BundlePath

MODELS = (DetectRequest, ClassifyRequest, SimilarityRequest)


@pytest.mark.parametrize(
    ("model", "given", "meant"),
    [
        *((model, name, "image") for model in MODELS for name in ("file", "files", "img", "picture", "image_file")),
        *((model, name, "image") for model in MODELS for name in ("inputs", "Image", "image[]", "imagee")),
        (DetectRequest, "text", "prompt"),
        (ClassifyRequest, "text", "labels"),
        (SimilarityRequest, "text", "texts"),
        (DetectRequest, "texts", "prompt"),
        (DetectRequest, "prompts", "prompt"),
        (ClassifyRequest, "candidate_labels", "labels"),
        (SimilarityRequest, "labels", "texts"),
        (DetectRequest, "conf", "box_threshold"),
        (DetectRequest, "treshold", "box_threshold"),
        (DetectRequest, "shoe_size", None),
        (DetectRequest, "box_treshold", "box_threshold"),
        (ClassifyRequest, "topk", "top_k"),
        (DetectRequest, "", None),
        (DetectRequest, "x" * 100_000, None),
    ],
)
def test_field_that_was_meant_is_named(model, given, meant):
    expected = "there is no such field" + (f": did you mean {meant}?" if meant else "")
    assert no_such_field(given, model.model_fields) == expected


def test_every_field_that_is_suggested_exists():
    fields = {name for model in (*MODELS, BundlePath) for name in model.model_fields}
    assert {field for group in _MEANT for field in group} <= fields
