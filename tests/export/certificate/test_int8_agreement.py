import shutil

import numpy as np
import pytest

from export import ExportError
from export.certificate.int8_agreement import float32_graphs, float32_outputs
from export.certificate.parity import INT8_LIMITS, limits_of, measure, shortfalls
from server.bundle import Bundle
from server.contract.manifest import read_manifest, write_manifest


def test_float32_graphs_agree_with_themselves(detector_bundle):
    cases, outputs = float32_outputs(detector_bundle)
    figures = measure(Bundle(detector_bundle), cases, outputs)["detector"]
    assert figures["token_scores.max_abs_error"] == 0
    assert figures["detections.matched"] == 1


def test_clip_is_compared_by_its_embeddings_and_labels(clip_bundle):
    cases, outputs = float32_outputs(clip_bundle)
    figures = measure(Bundle(clip_bundle), cases, outputs)
    assert figures["image_encoder"]["image_embeds.cosine"] == pytest.approx(1)
    assert figures["text_encoder"]["class_scores.label_agreement"] == 1


def test_limits_of_int8_are_the_published_ones():
    assert limits_of("int8") == INT8_LIMITS
    assert shortfalls({"image_features.cosine": 0.5, "image_features.max_relative_error": 1.0}, "int8") == []
    assert shortfalls({"detections.matched": 0.969}, "int8")
    assert shortfalls({"image_embeds.cosine": 0.994}, "int8")


def test_uncertified_float32_graphs_are_no_measure(clip_bundle, tmp_path):
    folder = shutil.copytree(clip_bundle, tmp_path / "copy")
    manifest = read_manifest(folder)
    bare = [artefact.model_copy(update={"certificate": None}) for artefact in manifest.artefacts]
    write_manifest(folder, manifest.model_copy(update={"artefacts": tuple(bare)}))
    with pytest.raises(ExportError, match="no certified fp32 graph of image_encoder, text_encoder"):
        float32_graphs(folder, read_manifest(folder))


def test_int8_figures_of_detections_are_means_over_pictures(detector_bundle, monkeypatch):
    cases, outputs = float32_outputs(detector_bundle)
    bundle = Bundle(detector_bundle)
    for name in [name for name in outputs if name.startswith(f"{cases[0].name}/0/")]:
        if name.endswith("token_scores"):
            outputs[name] = np.zeros_like(outputs[name])
    worst = measure(bundle, cases, outputs)["detector"]
    graphs = {part: artefact.model_copy(update={"precision": "int8"}) for part, artefact in bundle.artefacts.items()}
    monkeypatch.setattr(bundle, "artefacts", graphs)
    mean = measure(bundle, cases, outputs)["detector"]
    pictures = sum(len(case.images) for case in cases)
    assert worst["detections.matched"] < 1
    assert mean["detections.matched"] == pytest.approx(1 - (1 - worst["detections.matched"]) / pictures)
