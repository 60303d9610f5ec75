"""Adds graphs of a lower precision to a bundle, certified by their float32 twins; needs no PyTorch."""

from pathlib import Path

import numpy as np
import onnx

from export import ExportError
from export.bundle_folder import additions, link_files, put
from export.certificate.parity import certificate, describe, measure, versions
from export.certificate.parity_cases import unpack_cases
from export.onnx.grid_sample import without_deform_conv
from export.onnx.precision import Reduced, reduced, reduced_products
from export.progress import Progress
from server.bundle import Bundle, check_artefact
from server.contract.manifest import Artefact, FileHash, Manifest, read_manifest, sha256_of, write_manifest
from server.runtimes.ort import OrtSession


def add_precision(folder: Path, precision: Reduced, *, progress: Progress) -> Manifest:
    """Rewrite each part's float32 graph in this precision, beside it, and return the new manifest.

    Their certificates, passed or failed, hold the figures of their twins (`export.onnx.precision`).
    """
    with additions(folder) as written:
        manifest = read_manifest(folder)
        if manifest.reference is None:
            raise ExportError(
                f"{folder} was filled from a template and has no outputs of PyTorch to compare with; store them with:"
                " openset verify BUNDLE --checkpoint CHECKPOINT"
            )
        graphs = [a for a in manifest.artefacts if a.engine is None and a.precision == "fp32" and not a.uncertified]
        if lacking := {artefact.part for artefact in manifest.artefacts} - {graph.part for graph in graphs}:
            raise ExportError(f"{folder} has no certified fp32 graph of {', '.join(sorted(lacking))} to rewrite")
        twins = written / "twins"
        twins.mkdir()
        with progress.stage(f"rewrite the graphs in {precision}"):
            artefacts = [_rewrite(folder, graph, precision, written, twins, progress) for graph in graphs]
        with progress.stage(f"certify {precision}"):
            artefacts = _certified(folder, manifest, manifest.reference, artefacts, twins)
        kept = [each for each in manifest.artefacts if each.engine is not None or each.precision != precision]
        return put(written, folder, manifest.model_copy(update={"artefacts": (*kept, *artefacts)}))


def _rewrite(
    folder: Path, graph: Artefact, precision: Reduced, written: Path, twins: Path, progress: Progress
) -> Artefact:
    """Write the graph to `written` and its twin, under the same name, to `twins`."""
    check_artefact(folder, graph)
    # These precisions are for engines, and the products inside a DeformConv are to be reduced too.
    model = without_deform_conv(onnx.load(str(folder / graph.file)))
    name = f"{graph.file.removesuffix('.onnx')}.{precision}.onnx"
    rewritten = reduced(model, precision)
    onnx.save(rewritten, str(written / name))
    if precision != "bf16":  # ONNX Runtime has no bf16 on a CPU
        OrtSession(written / name)  # checks the types
    onnx.save(reduced(model, precision, twin=True), str(twins / name))
    half, total = reduced_products(rewritten)
    progress.say(f"  {graph.part}: {half} of {total} products")
    changes = {
        "precision": precision,
        "lowering": "grid_sample" if graph.lowering == "deform_conv" else graph.lowering,
        "file": name,
        "sha256": sha256_of(written / name),
        "data": (),
        "certificate": None,
    }
    return Artefact.model_validate(graph.model_dump() | changes)


def _certified(
    folder: Path, manifest: Manifest, reference: FileHash, artefacts: list[Artefact], twins: Path
) -> list[Artefact]:
    """The artefacts with certificates measured on their twins, run as a bundle of their own."""
    link_files(folder, [entry.file for entry in (manifest.tokenizer, manifest.canary, reference)], twins)
    stand_ins = [artefact.model_copy(update={"sha256": sha256_of(twins / artefact.file)}) for artefact in artefacts]
    write_manifest(twins, manifest.model_copy(update={"artefacts": tuple(stand_ins)}))
    bundle = Bundle(twins, allow_uncertified=True)
    with np.load(twins / reference.file, allow_pickle=False) as file:
        arrays = dict(file)
    cases = unpack_cases(arrays)
    figures = measure(bundle, cases, arrays)
    names = [describe(bundle, case) for case in cases]
    measured_with = versions(onnx=onnx.__version__, measured="a float32 twin that rounds where the graph does")
    return [
        artefact.model_copy(
            update={"certificate": certificate(artefact, figures[artefact.part], names, versions=measured_with)}
        )
        for artefact in artefacts
    ]
