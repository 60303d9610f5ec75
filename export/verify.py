"""Checks a bundle again, without PyTorch: its files, its canary, and the figures of its certificates."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.cases import Arrays, unpack_cases
from export.parity import FLOORS, Figures, ParityError, limits_of, measure, shortfalls
from export.progress import Progress
from server.bundle import Bundle, check_file
from server.contract.manifest import Artefact, BundleError, Certificate, FileHash, Manifest, Precision, read_manifest
from server.runtimes.choice import choose
from server.runtimes.device import AUTO
from server.runtimes.machine import this_machine


@dataclass(frozen=True)
class Verdict:
    """What was measured of each graph, by `name_of` it, and all that is wrong; a good bundle has no faults.

    notes: of engines, and graphs of lower precision, why they were not measured here.
    """

    figures: dict[str, Figures]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(folder: Path, progress: Progress) -> Verdict:
    """Check a bundle; BundleError where it cannot be read at all."""
    manifest = read_manifest(folder)
    with progress.stage("files"):
        faults = [*_file_faults(folder, manifest), *_certificate_faults(manifest)]
    if faults:
        return Verdict({}, tuple(faults))
    graphs = [artefact for artefact in manifest.artefacts if artefact.engine is None]
    with np.load(folder / manifest.reference.file, allow_pickle=False) as file:
        arrays = dict(file)
    figures: dict[str, Figures] = {}
    notes = list(_engines_refused(manifest))
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


def name_of(artefact: Artefact) -> str:
    """A graph as figures and faults name it, such as "detector" or "detector fp16"."""
    return artefact.part if artefact.precision == "fp32" else f"{artefact.part} {artefact.precision}"


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


def _engines_refused(manifest: Manifest) -> Iterator[str]:
    runtimes = {artefact.runtime for artefact in manifest.artefacts}
    refused = choose(manifest.artefacts, this_machine(runtimes, AUTO), allow_uncertified=False).refused
    for artefact in manifest.artefacts:
        if artefact.engine is not None and artefact.file in refused:
            yield f"{artefact.file}: {refused[artefact.file]}"


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
