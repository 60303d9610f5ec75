import shutil

import numpy as np
import onnx
import pytest

from export import ExportError
from export.certificate.parity import CEILINGS, FLOORS, limits_of, measure, shortfalls
from export.certificate.parity_cases import unpack_cases
from export.certificate.verify import verify
from export.progress import Progress
from export.reduced_graphs import add_precision
from server.__main__ import main
from server.bundle import Bundle
from server.contract.manifest import read_manifest, write_manifest
from server.registry.model_cache import BUNDLED

QUIET = Progress(quiet=True)


@pytest.fixture
def clip_copy(clip_bundle, tmp_path):
    return shutil.copytree(clip_bundle, tmp_path / "copy")


def added(manifest, precision):
    return {artefact.part: artefact for artefact in manifest.artefacts if artefact.precision == precision}


@pytest.mark.parametrize("precision", ["mixed", "fp16"])
def test_reduced_clip_is_certified_and_verified(clip_copy, precision):
    manifest = add_precision(clip_copy, precision, progress=QUIET)
    artefacts = added(manifest, precision)
    assert set(artefacts) == {"image_encoder", "text_encoder"}
    for artefact in artefacts.values():
        assert artefact.certificate.passed
        assert artefact.certificate.figures["class_scores.drift"] > 1e-6, "the rounding is felt"
        assert "twin" in artefact.certificate.versions["measured"]
    verdict = verify(clip_copy, QUIET)
    assert verdict.faults == ()
    assert f"image_encoder {precision}" in verdict.figures


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundled detector in half precision; at random weights its queries would swap ranks at the least rounding."""
    folder = shutil.copytree(BUNDLED / "grounding-dino-mini", tmp_path_factory.mktemp("trained") / "mini")
    return folder, add_precision(folder, "fp16", progress=QUIET)


def test_trained_detector_is_certified_in_mixed_precision(tmp_path):
    folder = shutil.copytree(BUNDLED / "glip-mini", tmp_path / "mini")
    detector = added(add_precision(folder, "mixed", progress=QUIET), "mixed")["detector"]
    assert detector.certificate.passed
    assert detector.certificate.figures["detections.label_agreement"] == 1
    assert detector.certificate.figures["detections.score_drift"] > 1e-6, "the rounding is felt"


def test_detector_in_fp16_throughout_falls_short_as_it_does_on_a_gpu(trained):
    detector = added(trained[1], "fp16")["detector"]
    assert not detector.certificate.passed
    assert detector.certificate.figures["boxes.mean_abs_error"] > 1e-3


def test_fp16_graph_run_by_a_cpu_would_seem_better_than_it_is(trained):
    """Why the twin is measured: ONNX Runtime leaves out the rounding between operators on a CPU."""
    folder, manifest = trained
    artefacts = added(manifest, "fp16")
    bundle = Bundle(folder, allow_uncertified=True, files={artefact.file for artefact in artefacts.values()})
    with np.load(folder / manifest.reference.file) as file:
        arrays = dict(file)
    seeming = measure(bundle, unpack_cases(arrays), arrays)["image_encoder"]
    told = artefacts["image_encoder"].certificate.figures
    assert seeming["image_features.mean_abs_error"] < told["image_features.mean_abs_error"] * 0.9


def test_float32_graph_serves_beside_a_reduced_one(clip_copy):
    add_precision(clip_copy, "mixed", progress=QUIET)
    bundle = Bundle(clip_copy)
    assert {artefact.precision for artefact in bundle.artefacts.values()} == {"fp32"}
    bundle.check_canary()


def test_bf16_that_the_cpu_cannot_run_is_a_note(clip_copy):
    manifest = add_precision(clip_copy, "bf16", progress=QUIET)
    assert all(artefact.certificate.figures for artefact in added(manifest, "bf16").values())
    write_manifest(clip_copy, _passed(manifest, "bf16"))
    verdict = verify(clip_copy, QUIET)
    assert verdict.faults == ()
    assert any("bf16.onnx cannot be loaded" in note for note in verdict.notes)


def _passed(manifest, precision):
    artefacts = []
    for artefact in manifest.artefacts:
        if artefact.precision == precision:
            given = artefact.certificate.model_copy(update={"passed": True})
            artefact = artefact.model_copy(update={"certificate": given})
        artefacts.append(artefact)
    return manifest.model_copy(update={"artefacts": tuple(artefacts)})


def test_precision_added_again_takes_the_place_of_the_older(clip_copy):
    for _ in range(2):
        manifest = add_precision(clip_copy, "mixed", progress=QUIET)
    assert len(manifest.artefacts) == 4
    named = {entry.file for entry in (manifest.tokenizer, manifest.reference, manifest.canary, *manifest.artefacts)}
    assert {path.name for path in clip_copy.iterdir()} == named | {"manifest.json"}
    assert len(list(clip_copy.parent.iterdir())) == 1


def test_precision_that_falls_short_is_told_and_not_built_from(clip_copy, monkeypatch, capsys):
    monkeypatch.setitem(FLOORS, "class_scores.label_agreement", 1.1)
    arguments = ["export", "--out", str(clip_copy), "--precision", "mixed"]
    assert main(arguments) == 1
    assert "image_encoder mixed, text_encoder mixed FAILED" in capsys.readouterr().err
    assert main([*arguments, "--runtime", "tensorrt-rtx"]) == 2
    assert "no certified mixed graph" in capsys.readouterr().err


def test_bundle_without_a_certified_float32_graph_is_refused(clip_copy):
    manifest = read_manifest(clip_copy)
    artefacts = tuple(artefact.model_copy(update={"certificate": None}) for artefact in manifest.artefacts)
    write_manifest(clip_copy, manifest.model_copy(update={"artefacts": artefacts}))
    with pytest.raises(ExportError, match="no certified fp32 graph of image_encoder, text_encoder"):
        add_precision(clip_copy, "mixed", progress=QUIET)


def test_reduced_precision_is_held_to_its_detections_not_its_single_queries():
    figures = {"boxes.max_abs_error": 0.3, "detections.matched": 1.0, "detections.score_drift": 2e-3}
    assert len(shortfalls(figures)) == 2
    assert shortfalls(figures, "mixed") == []
    assert shortfalls(figures | {"detections.matched": 0.9}, "mixed")


def test_limits_of_float32_are_the_published_ones():
    assert limits_of("fp32") == CEILINGS | FLOORS


@pytest.mark.parametrize("precision", ["mixed", "fp16", "bf16"])
def test_reduced_graphs_become_engines(clip_copy, precision):
    pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt-rtx-cu13")
    from export.tensorrt.engines import EngineTarget, add_engines

    write_manifest(clip_copy, _passed(add_precision(clip_copy, precision, progress=QUIET), precision))
    manifest = add_engines(clip_copy, EngineTarget("tensorrt-rtx", ("8.9",)), precision=precision, progress=QUIET)
    engines = [artefact for artefact in manifest.artefacts if artefact.engine]
    assert {engine.precision for engine in engines} == {precision}


def test_reduced_graph_is_valid_onnx(copied):
    manifest = add_precision(copied, "mixed", progress=QUIET)
    for artefact in added(manifest, "mixed").values():
        onnx.checker.check_model(str(copied / artefact.file))
