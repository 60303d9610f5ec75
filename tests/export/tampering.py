"""Bundles made wrong on purpose."""

from pathlib import Path

import numpy as np
import onnx

from server.contract.manifest import read_manifest, sha256_of, write_manifest


def replace_graph(folder: Path, file: Path, *, part: str = "detector") -> None:
    """Put another graph in place of a part's, with a manifest and a certificate that vouch for it."""
    (folder / f"{part}.onnx").write_bytes(file.read_bytes())
    manifest = read_manifest(folder)
    digest = sha256_of(folder / f"{part}.onnx")
    artefacts = []
    for artefact in manifest.artefacts:
        if artefact.part == part:
            assert artefact.certificate is not None
            given = artefact.certificate.model_copy(update={"artefact_sha256": digest})
            artefact = artefact.model_copy(update={"sha256": digest, "certificate": given})
        artefacts.append(artefact)
    write_manifest(folder, manifest.model_copy(update={"artefacts": tuple(artefacts)}))


def with_changed_weight(graph: Path, file: Path) -> Path:
    """The graph with its largest weight half as large again."""
    model = onnx.load(str(graph))
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, str(file))
    return file
