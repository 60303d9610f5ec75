"""Checks a bundle again, without PyTorch: its files, its canary, and the figures of its certificates.

Graphs are measured on the processor, as they were certified; engines where this machine runs them (`certify.py`).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.certificate.parity import FLOORS, Figures, ParityError, limits_of, measure, shortfalls
from export.certificate.parity_cases import Arrays, unpack_cases
from export.progress import Progress
from export.tensorrt.engine_certificate import engines_of, measure_engines, record
from server.bundle import Bundle, check_file
from server.contract.manifest import Artefact, BundleError, Certificate, FileHash, Manifest, Precision, read_manifest


@dataclass(frozen=True)
class Verdict:
    """What was measured of each artefact, by `name_of` it, and all that is wrong; a good bundle has no faults.

    notes: of engines, and graphs of lower precision, why they were not measured here; certified: the files of engines
    that were not run before, and that the manifest now has a certificate of.
    """

    figures: dict[str, Figures]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()
    certified: tuple[str, ...] = ()


def verify(folder: Path, progress: Progress) -> Verdict:
    """Check a bundle; BundleError where it cannot be read at all.

    An engine that this machine runs and that has no certificate yet gets one, in the manifest, unless something else of
    the bundle is wrong.
    """
    manifest = read_manifest(folder)
    with progress.stage("files"):
        faults = [*_file_faults(folder, manifest), *_certificate_faults(manifest)]
    if faults:
        return Verdict({}, tuple(faults))
    with np.load(folder / manifest.reference.file, allow_pickle=False) as file:
        arrays = dict(file)
    graphs = _verify_graphs(folder, manifest, arrays, progress)
    if graphs.faults:
        return graphs
    engines = _verify_engines(folder, manifest, arrays, progress)
    return replace(engines, figures=graphs.figures | engines.figures, notes=(*graphs.notes, *engines.notes))


def name_of(artefact: Artefact) -> str:
    """An artefact as figures and faults name it, such as "detector", "detector fp16" or "detector tensorrt"."""
    precision = "" if artefact.precision == "fp32" else f" {artefact.precision}"
    return f"{artefact.part}{precision}" + ("" if artefact.engine is None else f" {artefact.runtime}")


def _verify_graphs(folder: Path, manifest: Manifest, arrays: Arrays, progress: Progress) -> Verdict:
    graphs = [artefact for artefact in manifest.artefacts if artefact.engine is None]
    figures: dict[str, Figures] = {}
    faults: list[str] = []
    notes: list[str] = []
    for precision in dict.fromkeys(graph.precision for graph in graphs):
        files = {graph.file for graph in graphs if graph.precision == precision}
        try:
            measured = _measured(folder, files, precision, arrays, progress)
        except (BundleError, ParityError) as error:
            # It is there to build engines from: that ONNX Runtime has no bf16 on a CPU, say, is no fault of the bundle.
            (faults if precision == "fp32" else notes).append(str(error))
            continue
        figures |= measured
        faults += [f"{name}: {fault}" for name, table in measured.items() for fault in shortfalls(table, precision)]
    return Verdict(figures, tuple(faults), tuple(notes))


def _verify_engines(folder: Path, manifest: Manifest, arrays: Arrays, progress: Progress) -> Verdict:
    fitting, refused = engines_of(manifest)
    notes = tuple(f"{file}: {reason}" for file, reason in refused.items())
    figures: dict[str, Figures] = {}
    faults: list[str] = []
    proven: list[Artefact] = []
    for group in fitting:
        with progress.stage(f"engines of {group[0].runtime}, {group[0].precision}"):
            try:
                measured = measure_engines(folder, manifest, group, arrays)
            except Exception as error:  # a runtime raises its own classes; whatever it is, these engines do not serve
                faults += [f"{name_of(engine)}: {error}" for engine in group]
                continue
        for engine in measured:
            figures[name_of(engine.artefact)] = engine.figures
            faults += [f"{name_of(engine.artefact)}: {fault}" for fault in engine.shortfalls]
            if engine.artefact.certificate is None:
                proven.append(engine.with_certificate)
    record(folder, proven)
    certified = tuple(engine.file for engine in proven if engine.uncertified is None)
    return Verdict(figures, tuple(faults), notes, certified)


def _measured(
    folder: Path, files: Collection[str], precision: Precision, arrays: Arrays, progress: Progress
) -> dict[str, Figures]:
    """The figures of the graphs in these files; the canary is float32's own."""
    bundle = Bundle(folder, allow_uncertified=True, files=files)
    if precision == "fp32":
        with progress.stage("canary"):
            bundle.check_canary()
    with progress.stage(f"certificates, {precision}"):
        measured = measure(bundle, unpack_cases(arrays), arrays)
    return {name_of(bundle.artefacts[part]): table for part, table in measured.items()}


def _file_faults(folder: Path, manifest: Manifest) -> list[str]:
    faults = []
    entries: list[FileHash | Artefact] = [manifest.tokenizer, manifest.reference, manifest.canary, *manifest.artefacts]
    for entry in entries:
        try:
            check_file(folder, entry)
        except BundleError as error:
            faults.append(str(error))
    return faults


def _certificate_faults(manifest: Manifest) -> list[str]:
    faults = []
    for artefact in manifest.artefacts:
        if artefact.engine is not None and artefact.certificate is None:
            continue  # told as a note: it is not served, and the graph it was built from has its own certificate
        fault = artefact.uncertified
        if fault is None and artefact.certificate is not None:
            fault = _laxity(artefact.certificate, limits_of(artefact.precision))
        if fault is not None:
            faults.append(f"{name_of(artefact)}: {fault}")
    return faults


def _laxity(certificate: Certificate, limits: Figures) -> str | None:
    """A certificate that was held to less than is asked for here."""
    for name, limit in certificate.tolerances.items():
        asked = limits.get(name, limit)
        if limit < asked if name in FLOORS else limit > asked:
            return f"its certificate allows {name} {limit:g}, {asked:g} is asked for"
    return None
