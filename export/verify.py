"""Checks a bundle again, without PyTorch: its files, its canary, and the figures of its certificates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.cases import unpack_cases
from export.parity import CEILINGS, FLOORS, Figures, ParityError, measure, shortfalls
from export.progress import Progress
from server.bundle import Bundle, check_file
from server.contract.manifest import Artefact, BundleError, Certificate, FileHash, Manifest, read_manifest
from server.runtimes.choice import choose
from server.runtimes.machine import this_machine


@dataclass(frozen=True)
class Verdict:
    """What was measured of each graph, by `name_of` it, and all that is wrong; a good bundle has no faults.

    notes: of engines, why they were not measured here.
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
    try:
        figures = _measured(folder, manifest, progress)
    except (BundleError, ParityError) as error:
        return Verdict({}, (str(error),))
    shortcomings = [f"{name}: {fault}" for name, table in figures.items() for fault in shortfalls(table)]
    return Verdict(figures, tuple(shortcomings), _notes(manifest))


def name_of(artefact: Artefact) -> str:
    """A graph as figures and faults name it, such as "detector" or "detector fp16"."""
    return artefact.part if artefact.precision == "fp32" else f"{artefact.part} {artefact.precision}"


def _measured(folder: Path, manifest: Manifest, progress: Progress) -> dict[str, Figures]:
    """The canary and the cases, run by the graphs of each precision."""
    graphs = [artefact for artefact in manifest.artefacts if artefact.engine is None]
    figures: dict[str, Figures] = {}
    with np.load(folder / manifest.reference.file, allow_pickle=False) as file:
        arrays = dict(file)
    for precision in dict.fromkeys(graph.precision for graph in graphs):
        files = {graph.file for graph in graphs if graph.precision == precision}
        with progress.stage(f"canary, {precision}"):
            bundle = Bundle(folder, allow_uncertified=True, files=files)
            bundle.check_canary()
        with progress.stage(f"certificates, {precision}"):
            measured = measure(bundle, unpack_cases(arrays), arrays)
        figures |= {name_of(bundle.artefacts[part]): table for part, table in measured.items()}
    return figures


def _notes(manifest: Manifest) -> tuple[str, ...]:
    runtimes = {artefact.runtime for artefact in manifest.artefacts}
    refused = choose(manifest.artefacts, this_machine(runtimes), allow_uncertified=False).refused
    return tuple(f"{file}: {reason}" for file, reason in refused.items())


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
            fault = _laxity(artefact.certificate)
        if fault is not None:
            faults.append(f"{name_of(artefact)}: {fault}")
    return faults


def _laxity(certificate: Certificate) -> str | None:
    """A certificate that was held to less than is asked for here."""
    for name, limit in certificate.tolerances.items():
        if limit > CEILINGS.get(name, limit) or limit < FLOORS.get(name, limit):
            return f"its certificate allows {name} {limit:g}, {(CEILINGS | FLOORS)[name]:g} is asked for"
    return None
