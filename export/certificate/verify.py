"""Verifies a bundle without PyTorch: its files, its canary, and the figures of its certificates.

Graphs are measured on the CPU, as they were certified. Engines are measured where this machine runs them, and certified
then: where they were built, none may have run.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from export.certificate.int8_agreement import float32_graphs, int8_figures, int8_graphs
from export.certificate.parity import (
    FLOORS,
    Figures,
    ParityError,
    certificate,
    describe,
    limits_of,
    measure,
    shortfalls,
    versions,
)
from export.certificate.parity_cases import NamedArrays, unpack_cases
from export.progress import Progress
from server.bundle import Bundle, check_artefact, check_file
from server.contract.arrays import read_arrays
from server.contract.manifest import (
    Artefact,
    BundleError,
    Certificate,
    FileHash,
    Manifest,
    Precision,
    read_manifest,
    write_manifest,
)
from server.runtimes.artefact_selection import mismatch
from server.runtimes.device import AUTO, this_machine

EngineGroup = tuple[Artefact, ...]


@dataclass(frozen=True)
class VerifyReport:
    """Figures of each artefact, by `name_of` it, and all faults; a good bundle has none.

    notes: reasons why engines, graphs of lower precision, and the graphs of a filled template, were not measured here.
    certified: files of engines that had not run before, for which the manifest now has a certificate.
    """

    figures: dict[str, Figures]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()
    certified: tuple[str, ...] = ()


def verify(folder: Path, progress: Progress) -> VerifyReport:
    """Check a bundle; BundleError where it cannot be read at all.

    An engine that this machine runs and that has no certificate yet gets one in the manifest, unless the bundle has
    another fault.
    """
    manifest = read_manifest(folder)
    with progress.stage("files"):
        faults = [*_file_faults(folder, manifest), *_certificate_faults(manifest)]
    if faults:
        return VerifyReport({}, tuple(faults))
    int8 = _verify_int8(folder, manifest, progress)
    if manifest.reference is None:
        filled = _verify_filled(folder, manifest, progress)
        return replace(filled, figures=int8.figures, faults=(*filled.faults, *int8.faults))
    try:
        arrays = read_arrays(folder / manifest.reference.file)
    except BundleError as error:
        return VerifyReport({}, (str(error),))
    graphs = _verify_graphs(folder, manifest, arrays, progress)
    graphs = replace(graphs, figures=graphs.figures | int8.figures, faults=(*graphs.faults, *int8.faults))
    if graphs.faults:
        return graphs
    engines = _verify_engines(folder, manifest, arrays, progress)
    return replace(engines, figures=graphs.figures | engines.figures, notes=(*graphs.notes, *engines.notes))


def _verify_filled(folder: Path, manifest: Manifest, progress: Progress) -> VerifyReport:
    """Run the canary, all that can be measured of weights for which PyTorch's outputs are not stored."""
    assert manifest.template is not None, "the manifest gives any other bundle its reference"
    try:
        with progress.stage("canary"):
            files = {graph.file for graph in float32_graphs(folder, manifest).values()}
            Bundle(folder, files=files).check_canary()
    except BundleError as error:
        return VerifyReport({}, (str(error),))
    note = (
        f"certified by the template {manifest.template.name}, whose graphs were measured with synthetic weights. For a"
        " certificate with its own: openset verify BUNDLE --checkpoint CHECKPOINT, which needs the extra"
        " export"
    )
    return VerifyReport({}, (), (note,))


def name_of(artefact: Artefact) -> str:
    """Name of an artefact in figures and faults, such as "detector", "detector fp16" or "detector tensorrt"."""
    precision = "" if artefact.precision == "fp32" else f" {artefact.precision}"
    return f"{artefact.part}{precision}" + ("" if artefact.engine is None else f" {artefact.runtime}")


def _verify_int8(folder: Path, manifest: Manifest, progress: Progress) -> VerifyReport:
    """Measure the int8 graphs against the float32 graphs of the bundle."""
    graphs = int8_graphs(manifest)
    if not graphs:
        return VerifyReport({}, ())
    try:
        with progress.stage("certificates, int8"):
            measured = int8_figures(folder)
    except Exception as error:  # runtimes raise classes of their own
        return VerifyReport({}, (f"int8 graphs cannot be measured: {error}",))
    figures = {name_of(graphs[part]): table for part, table in measured.items()}
    faults = [f"{name}: {fault}" for name, table in figures.items() for fault in shortfalls(table, "int8")]
    return VerifyReport(figures, tuple(faults))


def _verify_graphs(folder: Path, manifest: Manifest, arrays: NamedArrays, progress: Progress) -> VerifyReport:
    graphs = [artefact for artefact in manifest.artefacts if artefact.engine is None and artefact.precision != "int8"]
    figures: dict[str, Figures] = {}
    faults: list[str] = []
    notes: list[str] = []
    for precision in dict.fromkeys(graph.precision for graph in graphs):
        files = {graph.file for graph in graphs if graph.precision == precision}
        try:
            measured = _measured(folder, files, precision, arrays, progress)
        except Exception as error:  # runtimes raise classes of their own, and stored cases may be of any shape
            # Lower precisions are for building engines: that ONNX Runtime has no bf16 on a CPU is not a fault.
            known = isinstance(error, BundleError | ParityError)
            told = str(error) if known else f"{folder} cannot be run: {type(error).__name__}: {error}"
            (faults if precision == "fp32" else notes).append(told)
            continue
        figures |= measured
        faults += [f"{name}: {fault}" for name, table in measured.items() for fault in shortfalls(table, precision)]
    return VerifyReport(figures, tuple(faults), tuple(notes))


def _verify_engines(folder: Path, manifest: Manifest, arrays: NamedArrays, progress: Progress) -> VerifyReport:
    fitting, refused = engines_of(manifest)
    notes = tuple(f"{file}: {reason}" for file, reason in refused.items())
    figures: dict[str, Figures] = {}
    faults: list[str] = []
    proven: list[Artefact] = []
    for group in fitting:
        with progress.stage(f"engines of {group[0].runtime}, {group[0].precision}"):
            try:
                measured = measure_engines(folder, manifest, group, arrays)
            except Exception as error:  # runtimes raise classes of their own; with any of them the engines cannot serve
                faults += [f"{name_of(engine)}: {error}" for engine in group]
                continue
        for engine in measured:
            figures[name_of(engine.artefact)] = engine.figures
            faults += [f"{name_of(engine.artefact)}: {fault}" for fault in engine.shortfalls]
            if engine.artefact.certificate is None:
                proven.append(engine.with_certificate)
    record_engines(folder, proven)
    certified = tuple(engine.file for engine in proven if engine.uncertified is None)
    return VerifyReport(figures, tuple(faults), notes, certified)


def _measured(
    folder: Path, files: Collection[str], precision: Precision, arrays: NamedArrays, progress: Progress
) -> dict[str, Figures]:
    """Figures of the graphs in these files; the canary holds for float32 only."""
    bundle = Bundle(folder, allow_uncertified=True, files=files)
    if precision == "fp32":
        with progress.stage("canary"):
            bundle.check_canary()
    with progress.stage(f"certificates, {precision}"):
        measured = measure(bundle, unpack_cases(arrays), arrays)
    return {name_of(bundle.artefacts[part]): table for part, table in measured.items()}


def _file_faults(folder: Path, manifest: Manifest) -> list[str]:
    faults = []
    entries: list[FileHash | Artefact] = [manifest.tokenizer, manifest.canary, *manifest.artefacts]
    if manifest.reference is not None:
        entries.append(manifest.reference)
    for entry in entries:
        try:
            check_artefact(folder, entry) if isinstance(entry, Artefact) else check_file(folder, entry)
        except BundleError as error:
            faults.append(str(error))
    return faults


def _certificate_faults(manifest: Manifest) -> list[str]:
    faults = []
    for artefact in manifest.artefacts:
        if artefact.engine is not None and artefact.certificate is None:
            continue  # a note: it is not served, and the graph it was built from has its own certificate
        fault = artefact.uncertified
        if fault is None and artefact.certificate is not None:
            fault = _laxity(artefact.certificate, limits_of(artefact.precision))
        if fault is not None:
            faults.append(f"{name_of(artefact)}: {fault}")
    return faults


def _laxity(certificate: Certificate, limits: Figures) -> str | None:
    """Fault of a certificate held to wider tolerances than these, or None."""
    for name, limit in certificate.tolerances.items():
        asked = limits.get(name, limit)
        if limit < asked if name in FLOORS else limit > asked:
            return f"its certificate allows {name} {limit:g}, {asked:g} is required"
    return None


@dataclass(frozen=True)
class MeasuredEngine:
    """An engine that was run: its figures, the cases and versions of its certificate, its activation memory."""

    artefact: Artefact
    figures: Figures
    cases: tuple[str, ...]
    versions: dict[str, str]
    activation_bytes: int

    @property
    def shortfalls(self) -> list[str]:
        """Figures out of tolerance, one sentence each."""
        return shortfalls(self.figures, self.artefact.precision)

    @property
    def with_certificate(self) -> Artefact:
        """The artefact with its certificate, passed or failed."""
        assert self.artefact.engine is not None, "graphs are certified where they are exported"
        given = certificate(self.artefact, self.figures, self.cases, versions=self.versions)
        engine = self.artefact.engine.model_copy(update={"status": "run", "activation_bytes": self.activation_bytes})
        return self.artefact.model_copy(update={"certificate": given, "engine": engine})


def engines_of(manifest: Manifest) -> tuple[list[EngineGroup], dict[str, str]]:
    """Engines that fit this machine, in groups that run together; and the reason, by file, of those that do not."""
    graphs = {artefact.content_sha256 for artefact in manifest.artefacts if artefact.engine is None}
    machine = this_machine({artefact.runtime for artefact in manifest.artefacts}, AUTO)
    engines = [artefact for artefact in manifest.artefacts if artefact.engine is not None]
    reasons = {engine.file: mismatch(engine, machine, graphs) for engine in engines}
    fitting = [engine for engine in engines if reasons[engine.file] is None]
    return list(_groups(fitting)), {file: reason for file, reason in reasons.items() if reason is not None}


def measure_engines(folder: Path, manifest: Manifest, group: EngineGroup, arrays: NamedArrays) -> list[MeasuredEngine]:
    """Run a group on the stored cases, with graphs for the parts it lacks; float32 engines also run the canary."""
    files = {engine.file for engine in group}
    parts = {engine.part for engine in group}  # their graphs are left out, so that none can stand in for an engine
    graphs = {a.file for a in manifest.artefacts if a.engine is None and a.precision == "fp32" and a.part not in parts}
    bundle = Bundle(folder, allow_uncertified=True, files=files | graphs, device=AUTO)
    if group[0].precision == "fp32":
        bundle.check_canary()
    cases = unpack_cases(arrays)
    figures, names = measure(bundle, cases, arrays), tuple(describe(bundle, case) for case in cases)
    gpu = this_machine({group[0].runtime}, AUTO).gpu or "none"
    run_by = versions(**{group[0].runtime: _version(group[0]), "gpu": gpu})
    return [
        MeasuredEngine(engine, figures[engine.part], names, run_by, bundle.activation_bytes[engine.part])
        for engine in group
    ]


def record_engines(folder: Path, engines: Sequence[Artefact]) -> None:
    """Replace the artefacts of these engines' files in the bundle's manifest."""
    if not engines:
        return
    manifest, proven = read_manifest(folder), {engine.file: engine for engine in engines}
    artefacts = tuple(proven.get(artefact.file, artefact) for artefact in manifest.artefacts)
    write_manifest(folder, manifest.model_copy(update={"artefacts": artefacts}))


def _groups(engines: Sequence[Artefact]) -> Iterator[EngineGroup]:
    """Groups of one runtime and precision with one engine a part; several that fit are put in groups of their own."""
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
