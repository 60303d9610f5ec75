"""Exports a checkpoint to a bundle: traces its graphs, stores reference outputs, certifies, moves it into place."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from export import ExportError
from export.certificate.parity import certificate, describe, measure, versions
from export.certificate.parity_cases import BundleTokenizer, ParityCase, make_cases, pack_cases
from export.certificate.reference import OutputArrays, canary_outputs, reference_outputs
from export.graph_spec import GraphSpec
from export.onnx.tracing import DEFAULT_LOWERING, DEFAULT_OPSET, to_onnx
from export.onnx.weight_storage import WeightStorage, round_weights
from export.progress import Progress
from models import registry
from models.family import ServingRules
from models.registry import FAMILIES, LoadedCheckpoint
from server.bundle import Bundle
from server.contract.manifest import MANIFEST_FILE, Artefact, FileHash, Lowering, Manifest, sha256_of, write_manifest
from server.contract.text import PromptTokenizer, SentenceTokenizer

TOKENIZER_FILE, REFERENCE_FILE, CANARY_FILE = "tokenizer.json", "reference.npz", "canary.npz"
QUIET = Progress(quiet=True)


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    source: str | None = None,
    licence: str | None = None,
    version: str = "1",
    opset: int = DEFAULT_OPSET,
    weights: WeightStorage = "fp32",
    lowering: Lowering = DEFAULT_LOWERING,
    progress: Progress = QUIET,
) -> Manifest:
    """Write the bundle of a checkpoint to the folder `out`, and return its manifest.

    A bundle that is there already is replaced, anything else is refused. `source`: origin of the checkpoint, where that
    says more than its file's name; `licence`: as the publisher states it elsewhere than beside the checkpoint.
    Certificates may have failed: the manifest tells. ParityError where a graph cannot be run at all.
    """
    target = Path(out)
    name = _bundle_name(target.name if name is None else name)
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress.stage("read the checkpoint"):
        loaded = registry.load(checkpoint)
    loaded = replace(loaded, source=source or loaded.source, licence=licence or loaded.licence)
    progress.say(f"{loaded.family} {loaded.variant} ({loaded.container}), licence {loaded.licence}")
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        family = FAMILIES[loaded.family]
        specs = family.graphs(loaded)
        # Before the weights are rounded, since a rule may be one of them.
        rules = family.serving(loaded.model, loaded.tokenizer_file).overridden(loaded.serving)
        round_weights(specs, weights)
        artefacts = []
        for spec in specs:
            file = folder / f"{spec.name}.onnx"
            with progress.stage(f"trace {spec.name}"):
                used = to_onnx(spec, file, opset=opset, weights=weights, lowering=lowering)
            record = {"part": spec.name, "opset": opset, "weights": weights, "lowering": used, "file": file.name}
            artefacts.append(Artefact.model_validate({**record, "sha256": sha256_of(file)}))
        manifest = _write_bundle(loaded, rules, folder, specs, artefacts, progress, name=name, version=version)
        folder.chmod(0o755)
        _put_in_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _write_bundle(
    loaded: LoadedCheckpoint,
    rules: ServingRules,
    folder: Path,
    specs: Sequence[GraphSpec],
    artefacts: Sequence[Artefact],
    progress: Progress,
    *,
    name: str,
    version: str,
) -> Manifest:
    """Add tokenizer, canary, reference outputs and the certified manifest to the graphs in `folder`."""
    shutil.copyfile(loaded.tokenizer_file, folder / TOKENIZER_FILE)
    canary = _store(folder, CANARY_FILE, canary_outputs(specs))
    tokenizer = _tokenizer(folder / TOKENIZER_FILE, rules)
    cases = make_cases(rules.preprocessing, tokenizer)
    with progress.stage("reference outputs in PyTorch"):
        outputs = reference_outputs(rules, tokenizer, specs, cases)
    manifest = Manifest(
        name=name,
        version=version,
        family=loaded.family,
        variant=loaded.variant,
        licence=loaded.licence,
        source=loaded.source,
        weights_sha256=loaded.weights_sha256,
        tokenizer=_hashed(folder, TOKENIZER_FILE),
        reference=_store(folder, REFERENCE_FILE, pack_cases(cases) | outputs),
        canary=canary,
        artefacts=tuple(artefacts),
        **dict(rules),
    )
    write_manifest(folder, manifest)
    certified = _certified(folder, cases, outputs, progress)
    write_manifest(folder, certified)
    return certified


def _certified(folder: Path, cases: Sequence[ParityCase], reference: OutputArrays, progress: Progress) -> Manifest:
    """Manifest of the bundle with the certificates of its graphs, run by the code that serves."""
    with progress.stage("load the graphs"):
        bundle = Bundle(folder, allow_uncertified=True)
        bundle.check_canary()
    with progress.stage("certify what serves"):
        figures = measure(bundle, cases, reference)
    names, measured_with = [describe(bundle, case) for case in cases], versions(torch=torch.__version__)
    artefacts = tuple(
        artefact.model_copy(
            update={"certificate": certificate(artefact, figures[artefact.part], names, versions=measured_with)}
        )
        for artefact in bundle.manifest.artefacts
    )
    return bundle.manifest.model_copy(update={"artefacts": artefacts})


def _tokenizer(file: Path, rules: ServingRules) -> BundleTokenizer:
    return PromptTokenizer(file, rules.text) if rules.text.style == "phrases" else SentenceTokenizer(file, rules.text)


def _store(folder: Path, file: str, arrays: OutputArrays) -> FileHash:
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
        raise ExportError(f"{target} exists and is no bundle: name another folder, or remove it")


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the finished folder to its target; a bundle that was there goes once the new one is in place."""
    if not target.exists():
        folder.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        target.rename(Path(aside) / "old")
        folder.rename(target)
