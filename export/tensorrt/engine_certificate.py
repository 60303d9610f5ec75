"""Certifies engines on the machine that is going to serve them: where they were built, none may have run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from export.certificate.parity import Figures, certificate, describe, measure, shortfalls, versions
from export.certificate.parity_cases import Arrays, unpack_cases
from server.bundle import Bundle
from server.contract.manifest import Artefact, Manifest, read_manifest, write_manifest
from server.runtimes.artefact_selection import mismatch
from server.runtimes.device import AUTO, this_machine

Group = tuple[Artefact, ...]


@dataclass(frozen=True)
class Measured:
    """An engine that was run: its figures, the cases and versions of its certificate, and what it computes in."""

    artefact: Artefact
    figures: Figures
    cases: tuple[str, ...]
    versions: dict[str, str]
    activation_bytes: int

    @property
    def shortfalls(self) -> list[str]:
        """What of the figures is out of tolerance."""
        return shortfalls(self.figures, self.artefact.precision)

    @property
    def with_certificate(self) -> Artefact:
        """The artefact with its certificate, passed or failed."""
        assert self.artefact.engine is not None, "graphs are certified where they are exported"
        given = certificate(self.artefact, self.figures, self.cases, versions=self.versions)
        told = {"status": "run", "activation_bytes": self.activation_bytes}
        engine = self.artefact.engine.model_copy(update=told)
        return self.artefact.model_copy(update={"certificate": given, "engine": engine})


def engines_of(manifest: Manifest) -> tuple[list[Group], dict[str, str]]:
    """The engines that fit this machine, in groups that run together; and by file why others do not fit."""
    graphs = {artefact.sha256 for artefact in manifest.artefacts if artefact.engine is None}
    machine = this_machine({artefact.runtime for artefact in manifest.artefacts}, AUTO)
    engines = [artefact for artefact in manifest.artefacts if artefact.engine is not None]
    reasons = {engine.file: mismatch(engine, machine, graphs) for engine in engines}
    fitting = [engine for engine in engines if reasons[engine.file] is None]
    return list(_groups(fitting)), {file: reason for file, reason in reasons.items() if reason is not None}


def measure_engines(folder: Path, manifest: Manifest, group: Group, arrays: Arrays) -> list[Measured]:
    """Run a group on the stored cases, with graphs for the parts that it lacks; float32 sings the canary too."""
    files = {engine.file for engine in group}
    parts = {engine.part for engine in group}  # whose graph may not take its place
    graphs = {a.file for a in manifest.artefacts if a.engine is None and a.precision == "fp32" and a.part not in parts}
    bundle = Bundle(folder, allow_uncertified=True, files=files | graphs, device=AUTO)
    if group[0].precision == "fp32":
        bundle.check_canary()
    cases = unpack_cases(arrays)
    figures, names = measure(bundle, cases, arrays), tuple(describe(bundle, case) for case in cases)
    gpu = this_machine({group[0].runtime}, AUTO).gpu or "none"
    run_by = versions(**{group[0].runtime: _version(group[0]), "gpu": gpu})
    return [
        Measured(engine, figures[engine.part], names, run_by, bundle.activation_bytes[engine.part]) for engine in group
    ]


def record(folder: Path, engines: Sequence[Artefact]) -> None:
    """Put these engines in the place of those of the same files, in the bundle's manifest."""
    if not engines:
        return
    manifest, proven = read_manifest(folder), {engine.file: engine for engine in engines}
    artefacts = tuple(proven.get(artefact.file, artefact) for artefact in manifest.artefacts)
    write_manifest(folder, manifest.model_copy(update={"artefacts": artefacts}))


def _groups(engines: Sequence[Artefact]) -> Iterator[Group]:
    """Engines of one runtime and precision, one of each part: where several fit, they are in groups of their own."""
    for _, same in groupby(sorted(engines, key=_kind), key=_kind):
        left = list(same)
        while left:
            group: dict[str, Artefact] = {}
            for engine in left:
                group.setdefault(engine.part, engine)
            yield tuple(group.values())
            left = [engine for engine in left if engine not in group.values()]


def _kind(engine: Artefact) -> tuple[str, str]:
    return engine.runtime, engine.precision


def _version(engine: Artefact) -> str:
    assert engine.engine is not None, "only engines are grouped"
    return engine.engine.version
