"""Writes a bundle: traces the parts, stores the reference outputs, certifies, and puts the folder in place at once."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from export import clip, glip, grounding_dino
from export.certificate.parity import certificate, describe, measure, versions
from export.certificate.parity_cases import make_cases, pack_cases
from export.certificate.reference import Outputs, canary_outputs, reference_outputs
from export.errors import ExportError
from export.graph_spec import Part
from export.manifest_defaults import ManifestDefaults, with_serving_section
from export.onnx.tracing import DEFAULT_LOWERING, DEFAULT_OPSET, to_onnx
from export.onnx.weight_storage import WeightStorage, round_to_half
from export.progress import Progress
from models import registry
from models.registry import LoadedCheckpoint
from server.bundle import Bundle
from server.contract.manifest import MANIFEST_FILE, Artefact, FileHash, Lowering, Manifest, sha256_of, write_manifest

FAMILIES: dict[str, ModuleType] = {"clip": clip, "grounding_dino": grounding_dino, "glip": glip}
TOKENIZER_FILE, REFERENCE_FILE, CANARY_FILE = "tokenizer.json", "reference.npz", "canary.npz"
QUIET = Progress(quiet=True)


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    source: str | None = None,
    version: str = "1",
    opset: int = DEFAULT_OPSET,
    weights: WeightStorage = "fp32",
    lowering: Lowering = DEFAULT_LOWERING,
    progress: Progress = QUIET,
) -> Manifest:
    """Write the bundle of a checkpoint to the folder `out`, and return its manifest.

    A bundle that is there already is replaced, anything else is refused. `source` is where the checkpoint came from, if
    that says more than its file's name. The manifest tells whether the certificates
    passed; ParityError where an artefact cannot even be run.
    """
    target = Path(out)
    name = _bundle_name(target.name if name is None else name)
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress.stage("read the checkpoint"):
        loaded = registry.load(checkpoint)
    loaded = replace(loaded, source=source or loaded.source)
    progress.say(f"{loaded.family} {loaded.variant} ({loaded.container})")
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        manifest = write_bundle(
            loaded,
            folder,
            name=name,
            version=version,
            opset=opset,
            weights=weights,
            lowering=lowering,
            progress=progress,
        )
        folder.chmod(0o755)
        _put_in_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def write_bundle(
    loaded: LoadedCheckpoint,
    folder: Path,
    *,
    name: str,
    version: str,
    opset: int,
    weights: WeightStorage,
    lowering: Lowering,
    progress: Progress,
) -> Manifest:
    """Fill an empty folder with the bundle of a model."""
    family = FAMILIES[loaded.family]
    parts: Sequence[Part] = family.parts(loaded)
    rules = with_serving_section(family.rules(loaded), loaded.serving)
    if weights == "fp16":
        round_to_half(parts)
    artefacts = []
    for part in parts:
        with progress.stage(f"trace {part.name}"):
            met = to_onnx(part, folder / f"{part.name}.onnx", opset=opset, weights=weights, lowering=lowering)
        record = {"part": part.name, "opset": opset, "weights": weights, "lowering": met}
        artefacts.append(_artefact(folder, record))
    shutil.copyfile(loaded.tokenizer_file, folder / TOKENIZER_FILE)
    canary = _store(folder, CANARY_FILE, canary_outputs(parts))
    nothing_yet = _store(folder, REFERENCE_FILE, {})
    files = (nothing_yet, canary)
    manifest = _manifest(loaded, rules, artefacts, name=name, version=version, files=files, folder=folder)
    write_manifest(folder, manifest)
    with progress.stage("load the graphs"):
        bundle = Bundle(folder, allow_uncertified=True)
        bundle.check_canary()
    manifest = _certified(bundle, parts, progress)
    write_manifest(folder, manifest)
    return manifest


def _certified(bundle: Bundle, parts: Sequence[Part], progress: Progress) -> Manifest:
    """The bundle's manifest with certificates, its reference outputs stored beside it."""
    cases = make_cases(bundle)
    with progress.stage("reference outputs in PyTorch"):
        reference = reference_outputs(bundle, parts, cases)
    stored = _store(bundle.folder, REFERENCE_FILE, pack_cases(cases) | reference)
    with progress.stage("certify what serves"):
        figures = measure(bundle, cases, reference)
    names, measured_with = [describe(bundle, case) for case in cases], versions(torch=torch.__version__)
    certificates = [
        certificate(artefact, figures[artefact.part], names, versions=measured_with)
        for artefact in bundle.manifest.artefacts
    ]
    artefacts = tuple(
        artefact.model_copy(update={"certificate": given})
        for artefact, given in zip(bundle.manifest.artefacts, certificates, strict=True)
    )
    return bundle.manifest.model_copy(update={"artefacts": artefacts, "reference": stored})


def _manifest(
    loaded: LoadedCheckpoint,
    rules: ManifestDefaults,
    artefacts: Sequence[Artefact],
    *,
    name: str,
    version: str,
    files: tuple[FileHash, FileHash],
    folder: Path,
) -> Manifest:
    reference, canary = files
    origin = {
        "family": loaded.family,
        "variant": loaded.variant,
        "licence": loaded.licence,
        "source": loaded.source,
        "weights_sha256": loaded.weights_sha256,
    }
    return Manifest.model_validate(
        {
            "name": name,
            "version": version,
            **origin,
            "tokenizer": _hashed(folder, TOKENIZER_FILE),
            "reference": reference,
            "canary": canary,
            "artefacts": tuple(artefacts),
            **dict(rules),
        }
    )


def _artefact(folder: Path, record: dict[str, object]) -> Artefact:
    file = f"{record['part']}.onnx"
    return Artefact.model_validate({**record, "file": file, "sha256": sha256_of(folder / file)})


def _store(folder: Path, file: str, arrays: Outputs) -> FileHash:
    np.savez_compressed(folder / file, allow_pickle=False, **arrays)
    return _hashed(folder, file)


def _hashed(folder: Path, file: str) -> FileHash:
    return FileHash(file=file, sha256=sha256_of(folder / file))


def _bundle_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    if not name:
        raise ExportError(f"bundle name is {text!r}; letters, digits, '.', '_' and '-' are expected")
    return name


def _check_target(target: Path) -> None:
    if target.exists() and not (target / MANIFEST_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} is there and is no bundle: name another folder, or remove it")


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the finished folder to its target; a bundle that was there goes once the new one is in place."""
    if not target.exists():
        folder.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        target.rename(Path(aside) / "old")
        folder.rename(target)
