import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.certificate.verify import verify
from export.progress import Progress
from server.__main__ import main
from server.contract.manifest import BundleError, read_manifest, sha256_of, write_manifest
from tests.export.tampering import replace_graph, with_changed_weight

ROOT = Path(__file__).parents[3]
QUIET = Progress(quiet=True)


def faults(folder):
    return verify(folder, QUIET).faults


def edit_detector(folder, **changes):
    manifest = read_manifest(folder)
    artefacts = tuple(a.model_copy(update=changes) if a.part == "detector" else a for a in manifest.artefacts)
    write_manifest(folder, manifest.model_copy(update={"artefacts": artefacts}))


def detector_certificate(folder):
    return next(a.certificate for a in read_manifest(folder).artefacts if a.part == "detector")


@pytest.mark.parametrize("name", ["clip_bundle", "detector_bundle"])
def test_exported_bundle_is_right(request, name):
    folder = request.getfixturevalue(name)
    verdict = verify(folder, QUIET)
    assert verdict.faults == ()
    assert list(verdict.figures) == [artefact.part for artefact in read_manifest(folder).artefacts]


@pytest.mark.parametrize(
    "file",
    ["detector.onnx", "image_encoder.onnx", "text_encoder.onnx", "tokenizer.json", "reference.npz", "canary.npz"],
)
def test_tampered_file_is_named(copied, file):
    data = bytearray((copied / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / file).write_bytes(data)
    (fault,) = faults(copied)
    assert file in fault


def test_missing_file_is_named(copied):
    (copied / "detector.onnx").unlink()
    (fault,) = faults(copied)
    assert "lacks detector.onnx" in fault


def test_missing_certificate_is_a_fault(copied):
    edit_detector(copied, certificate=None)
    assert faults(copied) == ("detector: it has no certificate",)


def test_failed_certificate_is_a_fault(copied):
    edit_detector(copied, certificate=detector_certificate(copied).model_copy(update={"passed": False}))
    assert faults(copied) == ("detector: its certificate says it failed",)


def test_certificate_for_another_file_is_a_fault(copied):
    edit_detector(copied, certificate=detector_certificate(copied).model_copy(update={"artefact_sha256": "0" * 64}))
    assert faults(copied) == ("detector: its certificate is for another file",)


def test_certificate_held_to_less_is_a_fault(copied):
    certificate = detector_certificate(copied)
    lax = {**certificate.tolerances, "boxes.max_abs_error": 0.5}
    edit_detector(copied, certificate=certificate.model_copy(update={"tolerances": lax}))
    (fault,) = faults(copied)
    assert "boxes.max_abs_error 0.5" in fault


def test_wrong_graph_with_a_manifest_that_vouches_for_it_is_caught(copied, tmp_path):
    """Whoever changes a graph can change its hash and certificate as well, but not what it computes."""
    replace_graph(copied, with_changed_weight(copied / "detector.onnx", tmp_path / "changed.onnx"))
    assert faults(copied)


def test_reference_outputs_that_the_graph_does_not_reproduce_are_caught(copied):
    with np.load(copied / "reference.npz") as file:
        arrays = dict(file)
    arrays["serving size/0/token_scores"] = arrays["serving size/0/token_scores"] * np.float32(0.9)
    np.savez_compressed(copied / "reference.npz", **arrays)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["reference"]["sha256"] = sha256_of(copied / "reference.npz")
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert any("token_scores" in fault for fault in faults(copied))


def test_canary_that_does_not_sing_is_a_fault(copied):
    with np.load(copied / "canary.npz") as file:
        arrays = dict(file)
    arrays["detector/out/boxes"] = arrays["detector/out/boxes"] + np.float32(0.2)
    np.savez_compressed(copied / "canary.npz", **arrays)
    manifest = read_manifest(copied)
    canary = manifest.canary.model_copy(update={"sha256": sha256_of(copied / "canary.npz")})
    write_manifest(copied, manifest.model_copy(update={"canary": canary}))
    (fault,) = faults(copied)
    assert "canary" in fault


def test_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        verify(tmp_path, QUIET)


def test_verifying_needs_no_torch(detector_bundle):
    code = (
        "import sys\n"
        "from server.__main__ import main\n"
        f"status = main(['verify', {str(detector_bundle)!r}, '--quiet'])\n"
        "print(status, [m for m in ('torch', 'onnx', 'models') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def renamed(folder, entry, data):
    """Put `data` in place of a file of the bundle, under a hash that fits."""
    manifest = read_manifest(folder)
    file = getattr(manifest, entry).file
    (folder / file).write_bytes(data)
    hashed = getattr(manifest, entry).model_copy(update={"sha256": sha256_of(folder / file)})
    write_manifest(folder, manifest.model_copy(update={entry: hashed}))


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


HOSTILE = {
    "pickled arrays": ("reference", npz(a=np.array([None], dtype=object))),
    "other arrays": ("reference", npz(a=np.zeros(3))),
    "no arrays": ("reference", b"PK\x03\x04"),
    "empty canary": ("canary", npz()),
    "canary of other shapes": ("canary", npz(**{"image_encoder/in/pixel_values": np.zeros((1, 2))})),
    "canary of words": ("canary", npz(**{"image_encoder/in/pixel_values": np.array(["x"])})),
    "tokenizer": ("tokenizer", b"{}"),
    "deep tokenizer": ("tokenizer", b'{"a":' * 100_000),
    "tokenizer of bytes": ("tokenizer", b"\xff\x00"),
}


@pytest.mark.parametrize(("entry", "data"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_under_a_fitting_hash_is_a_fault_and_no_traceback(copied, capsys, entry, data):
    renamed(copied, entry, data)
    assert main(["verify", str(copied), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("openset verify: ")
    assert "Traceback" not in error


@pytest.mark.parametrize("graph", [b"", b"\x08", b"not a graph", b"\x3a\x02\x2a\x00"])
def test_hostile_graph_is_a_fault_and_no_traceback(copied, tmp_path, graph, capsys):
    (tmp_path / "g.onnx").write_bytes(graph)
    replace_graph(copied, tmp_path / "g.onnx")
    assert main(["verify", str(copied), "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("openset verify: ")


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"[" * 100_000, b'{"schema_version": 2}', b"\xff", b'{"schema_version": 2, "name": NaN}', b"7"],
)
def test_hostile_manifest_is_one_sentence(tmp_path, capsys, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert main(["verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("openset verify: ")


def test_manifest_that_is_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "manifest.json")
    assert main(["verify", str(tmp_path)]) == 2
    assert "it is no regular file" in capsys.readouterr().err
