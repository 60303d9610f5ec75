"""Checks a bundle again, without PyTorch: its files, its canary, and the figures of its certificates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.cases import unpack_cases
from export.parity import CEILINGS, FLOORS, Figures, ParityError, measure, shortfalls
from export.progress import Progress
from server.bundle import Bundle, check_file
from server.contract.manifest import Artefact, BundleError, Certificate, FileHash, Manifest, read_manifest


@dataclass(frozen=True)
class Verdict:
    """What was measured of each part, and all that is wrong; a good bundle has no faults."""

    figures: dict[str, Figures]
    faults: tuple[str, ...]


def verify(folder: Path, progress: Progress) -> Verdict:
    """Check a bundle; BundleError where it cannot be read at all."""
    manifest = read_manifest(folder)
    with progress.stage("files"):
        faults = [*_file_faults(folder, manifest), *_certificate_faults(manifest)]
    if faults:
        return Verdict({}, tuple(faults))
    try:
        with progress.stage("canary"):
            bundle = Bundle(folder, allow_uncertified=True)
            bundle.check_canary()
        with progress.stage("certificates"), np.load(folder / manifest.reference.file, allow_pickle=False) as file:
            arrays = dict(file)
            figures = measure(bundle, unpack_cases(arrays), arrays)
    except (BundleError, ParityError) as error:
        return Verdict({}, (str(error),))
    return Verdict(figures, tuple(f"{part}: {fault}" for part, table in figures.items() for fault in shortfalls(table)))


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
        fault = artefact.uncertified
        if fault is None and artefact.certificate is not None:
            fault = _laxity(artefact.certificate)
        if fault is not None:
            faults.append(f"{artefact.part}: {fault}")
    return faults


def _laxity(certificate: Certificate) -> str | None:
    """A certificate that was held to less than is asked for here."""
    for name, limit in certificate.tolerances.items():
        if limit > CEILINGS.get(name, limit) or limit < FLOORS.get(name, limit):
            return f"its certificate allows {name} {limit:g}, {(CEILINGS | FLOORS)[name]:g} is asked for"
    return None
