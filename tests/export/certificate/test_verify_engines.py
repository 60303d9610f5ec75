"""Engines get their certificates on the machine that runs them; here that machine is a stand-in which computes."""

import json

import numpy as np
import pytest

from export.certificate.verify import engines_of, verify
from export.progress import Progress
from server.__main__ import main
from server.bundle import Bundle
from server.contract.manifest import read_manifest, sha256_of, write_manifest
from server.runtimes.device import AUTO
from tests.server import fake_trt
from tests.server.engine_bundles import with_engines
from tests.server.fake_cuda import install
from tests.server.fake_trt import install_trt

QUIET = Progress(quiet=True)
VERSION = "10.14.1"


@pytest.fixture
def trt(monkeypatch):
    monkeypatch.setattr("server.runtimes.gpu._opened", {})
    for module in ("device", "ort"):
        monkeypatch.setattr(f"server.runtimes.{module}.gpu_at", {0: ("NVIDIA RTX 4090", "8.9")}.get)
    return install_trt(monkeypatch, install(monkeypatch), version=VERSION)


@pytest.fixture
def engines(trt, detector_bundle, tmp_path):
    """The detector's bundle with engines that were not run."""
    return with_engines(detector_bundle, tmp_path / "engines", certified=False)


def records(folder):
    return [artefact for artefact in read_manifest(folder).artefacts if artefact.engine]


def test_engine_that_was_not_run_is_certified_and_then_serves(engines):
    assert set(Bundle(engines, device=AUTO).providers.values()) == {"CPUExecutionProvider"}
    verdict = verify(engines, QUIET)
    assert (verdict.faults, verdict.notes) == ((), ())
    assert verdict.certified == tuple(engine.file for engine in records(engines))
    for engine in records(engines):
        assert (engine.engine.status, engine.uncertified) == ("run", None)
        assert engine.certificate.figures == pytest.approx(verdict.figures[f"{engine.part} tensorrt"], rel=1e-4)
        assert engine.certificate.versions["tensorrt"] == VERSION
        assert engine.certificate.versions["gpu"] == "NVIDIA RTX 4090"
        assert engine.engine.activation_bytes == fake_trt.ACTIVATION_BYTES * len(engine.engine.profiles)
        assert len(engine.certificate.cases) > 1
    bundle = Bundle(engines, device=AUTO)
    assert (set(bundle.providers.values()), bundle.uncertified) == ({"tensorrt"}, {})


def test_certified_engine_is_measured_again_and_the_manifest_stays(engines):
    verify(engines, QUIET)
    before = (engines / "manifest.json").read_bytes()
    verdict = verify(engines, QUIET)
    assert (verdict.faults, verdict.certified) == ((), ())
    assert "detector tensorrt" in verdict.figures
    assert (engines / "manifest.json").read_bytes() == before


def test_engine_that_answers_wrongly_gets_a_certificate_that_says_so(engines, trt, monkeypatch):
    right = fake_trt._Context._compute

    def wrong(self, shapes, addresses, outputs, memory):
        right(self, shapes, addresses, outputs, memory)
        if "boxes" in outputs:
            view = self._view(addresses["boxes"], outputs["boxes"], np.dtype(np.float32))
            view += np.float32(0.05)

    monkeypatch.setattr(fake_trt._Context, "_compute", wrong)
    monkeypatch.setattr(Bundle, "check_canary", lambda self: None)  # it would be told there already
    verdict = verify(engines, QUIET)
    assert any(fault.startswith("detector tensorrt: boxes.max_abs_error is 0.05") for fault in verdict.faults)
    (detector,) = [engine for engine in records(engines) if engine.part == "detector"]
    assert (detector.engine.status, detector.uncertified) == ("run", "its certificate says it failed")
    assert Bundle(engines, device=AUTO).artefacts["detector"].runtime == "onnxruntime"


def test_engine_that_cannot_run_is_a_fault_and_stays_not_run(engines, trt):
    trt.fail_run, trt.reason = lambda *_: True, "an illegal access"
    verdict = verify(engines, QUIET)
    assert len(verdict.faults) == 3
    assert all("running failed: an illegal access" in fault for fault in verdict.faults)
    assert {engine.engine.status for engine in records(engines)} == {"not run"}


def test_graph_is_never_measured_in_the_place_of_an_engine_that_does_not_open(engines, trt):
    trt.context_limit = 0
    verdict = verify(engines, QUIET)
    assert all("creating an execution context failed" in fault for fault in verdict.faults)
    assert (len(verdict.faults), verdict.certified) == (len(records(engines)), ())
    assert {engine.certificate for engine in records(engines)} == {None}


def test_engines_of_other_machines_are_noted_and_left_alone(engines, monkeypatch):
    monkeypatch.setattr("server.runtimes.device.gpu_at", {0: ("NVIDIA H100", "9.0")}.get)
    verdict = verify(engines, QUIET)
    assert (verdict.faults, verdict.certified) == ((), ())
    assert all("NVIDIA H100 has 9.0" in note for note in verdict.notes)
    assert {engine.engine.status for engine in records(engines)} == {"not run"}


def test_bundle_with_a_fault_gets_no_certificates(engines):
    with np.load(engines / "reference.npz") as file:
        arrays = dict(file)
    arrays["serving size/0/token_scores"] = arrays["serving size/0/token_scores"] * np.float32(0.9)
    np.savez_compressed(engines / "reference.npz", **arrays)
    manifest = json.loads((engines / "manifest.json").read_text())
    manifest["reference"]["sha256"] = sha256_of(engines / "reference.npz")
    (engines / "manifest.json").write_text(json.dumps(manifest))
    assert verify(engines, QUIET).faults
    assert {engine.engine.status for engine in records(engines)} == {"not run"}


def test_two_engines_of_a_part_are_measured_apart(engines):
    manifest = read_manifest(engines)
    other = records(engines)[0]
    file = f"other.{other.file}"
    (engines / file).write_bytes((engines / other.file).read_bytes())
    write_manifest(
        engines,
        manifest.model_copy(update={"artefacts": (*manifest.artefacts, other.model_copy(update={"file": file}))}),
    )
    groups, _ = engines_of(read_manifest(engines))
    assert sorted(len(group) for group in groups) == [1, 3]
    assert len(verify(engines, QUIET).certified) == 4


def test_shell_tells_what_was_certified(engines, capsys):
    assert main(["verify", str(engines)]) == 0
    out = capsys.readouterr().out
    assert "detector.tensorrt.engine is certified on this machine" in out
    assert "detector tensorrt " in out
