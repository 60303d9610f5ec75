"""Adds TensorRT engines to a bundle, built from the graphs it has; PyTorch is not needed."""

from pathlib import Path

from export.errors import ExportError
from export.progress import Progress
from export.tensorrt.builder import Built, Target, build_engine
from server.bundle import check_file
from server.contract.manifest import (
    Artefact,
    Engine,
    Manifest,
    Precision,
    read_manifest,
    sha256_of,
    write_manifest,
)

_NEW = ".new"  # an engine's file until all are built


def add_engines(folder: Path, target: Target, *, precision: Precision = "fp32", progress: Progress) -> Manifest:
    """Build the engine of every part from its certified graph of this precision, and return the new manifest.

    An engine is marked "not run", and has no certificate, until a machine with its GPU has measured it. The manifest
    is written last; where a build fails, the bundle is as it was.
    """
    manifest = read_manifest(folder)
    graphs = [a for a in manifest.artefacts if a.engine is None and a.precision == precision and not a.uncertified]
    if lacking := {artefact.part for artefact in manifest.artefacts} - {graph.part for graph in graphs}:
        raise ExportError(f"{folder} has no certified {precision} graph of {', '.join(sorted(lacking))} to build from")
    try:
        engines = [_build(folder, manifest, graph, target, progress) for graph in graphs]
        for engine in engines:
            (folder / f"{engine.file}{_NEW}").replace(folder / engine.file)
    finally:
        for unused in folder.glob(f"*{_NEW}"):
            unused.unlink()
    replaced = [old for old in manifest.artefacts if any(_same_place(old, new) for new in engines)]
    kept = [artefact for artefact in manifest.artefacts if artefact not in replaced]
    manifest = manifest.model_copy(update={"artefacts": (*engines, *kept)})
    write_manifest(folder, manifest)
    for file in {old.file for old in replaced} - {engine.file for engine in engines}:
        (folder / file).unlink(missing_ok=True)
    return manifest


def _build(folder: Path, manifest: Manifest, graph: Artefact, target: Target, progress: Progress) -> Artefact:
    check_file(folder, graph)
    with progress.stage(f"build {graph.part} with {target.runtime}"):
        built = build_engine(folder / graph.file, manifest, target, full=graph.precision == "fp32", progress=progress)
    artefact = _store(folder, graph, built, target)
    progress.say(f"  {artefact.file}: {len(built.data) / 2**20:.0f} MiB, {len(built.profiles)} profiles")
    return artefact


def _store(folder: Path, graph: Artefact, built: Built, target: Target) -> Artefact:
    targets = [] if target.capabilities is None else [f"sm{c.replace('.', '')}" for c in target.capabilities]
    name = ".".join([graph.file.removesuffix(".onnx"), f"{target.runtime}-{built.version}", *targets, "engine"])
    new = folder / f"{name}{_NEW}"
    new.write_bytes(built.data)
    record = Engine(
        version=built.version,
        compute_capabilities=built.capabilities,
        source_sha256=graph.sha256,
        profiles=built.profiles,
    )
    changes = {
        "runtime": target.runtime,
        "file": name,
        "sha256": sha256_of(new),
        "engine": record,
        "certificate": None,
    }
    return Artefact.model_validate(graph.model_dump() | changes)


def _same_place(old: Artefact, new: Artefact) -> bool:
    """Whether `new` takes the place of `old`: an engine of the same part and precision, for the same GPUs."""
    if old.engine is None or new.engine is None or old.runtime != new.runtime:
        return False
    return (old.part, old.precision, old.engine.compute_capabilities) == (
        new.part,
        new.precision,
        new.engine.compute_capabilities,
    )
