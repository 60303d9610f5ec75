"""A bundle whose parts have more than one artefact: what serves, and what is told of the others."""

import pytest

from server.bundle import Bundle
from server.contract.manifest import Artefact, BundleError, read_manifest, sha256_of, write_manifest


def add_engine(folder, **record):
    """An engine record of the detector, whose file is no engine: to open it would fail."""
    manifest = read_manifest(folder)
    graph = next(artefact for artefact in manifest.artefacts if artefact.part == "detector")
    (folder / "detector.engine").write_bytes(b"no engine")
    engine = Artefact.model_validate(
        {
            "part": "detector",
            "runtime": "tensorrt-rtx",
            "opset": graph.opset,
            "file": "detector.engine",
            "sha256": sha256_of(folder / "detector.engine"),
            "engine": {
                "version": "1.7.1",
                "compute_capabilities": ["8.9"],
                "source_sha256": graph.sha256,
                "profiles": [{"batch": [1, 1, 4]}],
            }
            | record,
        }
    )
    write_manifest(folder, manifest.model_copy(update={"artefacts": (engine, *manifest.artefacts)}))


@pytest.mark.parametrize("allow_uncertified", [False, True])
def test_graph_serves_where_the_engine_cannot(copied, allow_uncertified):
    add_engine(copied)
    bundle = Bundle(copied, allow_uncertified=allow_uncertified)
    bundle.check_canary()
    assert bundle.artefacts["detector"].file == "detector.onnx"
    assert list(bundle.refused) == ["detector.engine"]
    assert bundle.uncertified == {}


def test_engine_alone_is_refused_with_the_reason(copied):
    add_engine(copied)
    with pytest.raises(BundleError, match=r"no usable detector \(detector\.engine: "):
        Bundle(copied, files={"detector.engine", "image_encoder.onnx", "text_encoder.onnx"})


def test_graph_that_changed_since_the_engine_was_built_is_told(copied):
    add_engine(copied, source_sha256="0" * 64)
    assert "the graph it was built from is not in the bundle" in Bundle(copied).refused["detector.engine"]
