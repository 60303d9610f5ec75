"""Adds int8 graphs to a bundle, as much of them in int8 as gains time and as its answers bear; needs no PyTorch.

A part that is not `LEAST_GAIN` times as fast in int8 stays float32. The plan is all products of the others, or, where
that breaks the answers, as many groups of them (`export.onnx.int8.group_of`) as agree together with the float32 graphs:
they are tried one after the other, those first that do the least harm for the weights they hold. Each trial is run and
measured.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx

from export import ExportError
from export.bundle_folder import CANARY_FILE, additions, files_of, hashed, link_files, put, store
from export.certificate.int8_agreement import Outputs, agreement, float32_graphs, float32_outputs
from export.certificate.parity import (
    HIGHER_IS_BETTER,
    INT8_LIMITS,
    Figures,
    certificate,
    describe,
    shortfalls,
    versions,
)
from export.certificate.parity_cases import ParityCase
from export.onnx.int8 import Int8Writer
from export.part_times import speedups
from export.progress import Progress
from server.bundle import INT8_CANARY, Bundle, check_artefact
from server.contract.arrays import read_arrays
from server.contract.manifest import Artefact, Manifest, read_manifest, sha256_of, write_manifest

Group = tuple[str, str]  # a part, and a group of its products
LEAST_GAIN = 1.05
# Groups are put in order by every third case, and tried with all.
STEP = 3


def add_int8(folder: Path, *, progress: Progress) -> Manifest:
    """Write the int8 graphs that the plan chose, each before the float32 graph of its part; returns the new manifest.

    A part of which nothing is left in int8 has none. ExportError with the figures where even then they do not agree.
    """
    with additions(folder) as scratch:
        manifest = read_manifest(folder)
        graphs = float32_graphs(folder, manifest)
        with progress.stage("read the graphs"):
            for graph in graphs.values():
                check_artefact(folder, graph)
            writers = {part: Int8Writer(onnx.load(str(folder / graph.file))) for part, graph in graphs.items()}
        with progress.stage("float32 answers to drawings"):
            cases, wanted = float32_outputs(folder)
        trials = _Trials(folder, manifest, graphs, writers, cases, wanted, scratch, progress)
        with progress.stage("plan int8"):
            kept = trials.plan()
            artefacts = trials.certified(kept)
        others = [artefact for artefact in manifest.artefacts if artefact.precision != "int8"]
        changes = {"artefacts": (*artefacts, *others), "canary": hashed(scratch, CANARY_FILE)}
        return put(scratch, folder, manifest.model_copy(update=changes))


class _Trials:
    """Bundles in a scratch folder with this or that in int8, measured against the float32 outputs `wanted`."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        graphs: dict[str, Artefact],
        writers: dict[str, Int8Writer],
        cases: Sequence[ParityCase],
        wanted: Outputs,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self.manifest, self.graphs, self.writers, self.progress = manifest, graphs, writers, progress
        self.cases, self.wanted, self.scratch = cases, wanted, scratch
        self.groups: list[Group] = [(part, group) for part, writer in writers.items() for group in writer.groups]
        link_files(folder, (manifest.tokenizer.file, manifest.canary.file), scratch)
        for graph in graphs.values():
            link_files(folder, files_of(graph), scratch)

    def plan(self) -> list[Group]:
        """The groups to compute in int8; ExportError where none can be, or none gains time."""
        kept = self._gaining(self.groups)
        while faults := self._faults(kept):  # also where a part that gains no more evened out the fault of another
            if not (agreeing := self._agreeing(kept)):
                raise ExportError(f"int8 breaks the answers of {self.manifest.name}: {'; '.join(faults)}")
            if (kept := self._gaining(agreeing)) == agreeing:
                break
        return kept

    def certified(self, kept: Sequence[Group]) -> list[Artefact]:
        """The int8 artefacts of a plan in the scratch folder, with their certificates."""
        bundle = self._bundle(kept)
        self._store_canary(bundle)
        figures = agreement(bundle, self.cases, self.wanted)
        names = [describe(bundle, case) for case in self.cases]
        measured_with = versions(
            onnx=onnx.__version__, measured="against the float32 graphs of the bundle, on drawings and photographs"
        )
        artefacts = []
        for part, table in figures.items():
            artefact = bundle.artefacts[part]
            given = certificate(artefact, table, names, versions=measured_with)
            artefacts.append(artefact.model_copy(update={"certificate": given}))
            groups = [group for own, group in kept if own == part]
            left = [group for group in self.writers[part].groups if group not in groups]
            self.progress.say(f"  {part} in int8: {', '.join(groups)}; in float32: {', '.join(left) or 'the rest'}")
        return artefacts

    def _store_canary(self, bundle: Bundle) -> None:
        """Write the canary anew, with the outputs of this bundle."""
        canary = read_arrays(self.scratch / self.manifest.canary.file)
        canary = {name: value for name, value in canary.items() if not name.startswith(INT8_CANARY)}
        outputs = bundle.run_canary(canary)
        own = {f"{INT8_CANARY}{name}": output for name, output in outputs.items() if name in canary}
        store(self.scratch, CANARY_FILE, canary | own)

    def _gaining(self, groups: list[Group]) -> list[Group]:
        """The groups in parts that these groups make faster; ExportError where they make none faster."""
        if not groups:
            return []
        float32, int8 = (self._bundle(chosen, threads=1) for chosen in ((), groups))
        gains = speedups(float32, int8)
        kept = [group for group in groups if gains[group[0]] >= LEAST_GAIN]
        measured = ", ".join(f"{part} {gains[part]:.2f}" for part in dict.fromkeys(part for part, _ in groups))
        self.progress.say(f"  times as fast in int8: {measured}")
        if not kept:
            raise ExportError(
                f"int8 makes no part of {self.manifest.name} {LEAST_GAIN:g} times as fast on this CPU ({measured})"
            )
        return kept

    def _agreeing(self, groups: list[Group]) -> list[Group]:
        """As many of the groups as agree together, found one by one."""
        with self.progress.stage(f"  the harm of each of {len(groups)} groups"):
            harm = {group: _harm(self._figures([group], self.cases[::STEP])) / self._weights(group) for group in groups}
        kept: list[Group] = []
        for group in sorted(groups, key=lambda group: harm[group]):
            if not self._faults([*kept, group]):
                kept.append(group)
        return [group for group in groups if group in kept]

    def _weights(self, group: Group) -> int:
        return self.writers[group[0]].weights_of(group[1])

    def _faults(self, kept: Sequence[Group]) -> list[str]:
        faults = shortfalls(self._figures(kept, self.cases), "int8")
        last = f", the last {': '.join(kept[-1])}" if kept else ""
        self.progress.say(f"  {len(kept)} of {len(self.groups)} groups in int8{last}: {'; '.join(faults) or 'agrees'}")
        return faults

    def _figures(self, kept: Sequence[Group], cases: Sequence[ParityCase]) -> Figures:
        tables = agreement(self._bundle(kept), cases, self.wanted).values()
        return {name: value for table in tables for name, value in table.items()}

    def _bundle(self, kept: Collection[Group], *, threads: int = 0) -> Bundle:
        artefacts = []
        for part, graph in self.graphs.items():
            groups = {group for own, group in kept if own == part}
            artefacts.append(self._written(part, graph, groups) if groups else graph)
        write_manifest(self.scratch, self.manifest.model_copy(update={"artefacts": tuple(artefacts)}))
        return Bundle(self.scratch, allow_uncertified=True, threads=threads)

    def _written(self, part: str, graph: Artefact, groups: set[str]) -> Artefact:
        file = self.scratch / f"{graph.file.removesuffix('.onnx')}.int8.onnx"
        onnx.save(self.writers[part].rewritten(groups), str(file))
        changes = {"precision": "int8", "file": file.name, "sha256": sha256_of(file), "data": (), "certificate": None}
        return Artefact.model_validate(graph.model_dump() | changes)


def _harm(figures: Figures) -> float:
    """Sum over the figures with a limit: the distance from full agreement, in units of what the limit allows."""
    harm = 0.0
    for name, limit in INT8_LIMITS.items():
        if name in figures:
            full = 1.0 if name in HIGHER_IS_BETTER else 0.0
            harm += abs(figures[name] - full) / abs(limit - full)
    return harm
