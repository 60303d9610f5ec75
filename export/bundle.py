"""Exports a checkpoint to a bundle: traces its graphs, stores reference outputs, certifies, moves it into place."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from export import ExportError
from export.bundle_folder import (
    CANARY_FILE,
    REFERENCE_FILE,
    TOKENIZER_FILE,
    additions,
    bundle_in_place,
    bundle_name,
    files_of,
    hashed,
    link_files,
    put,
    store,
)
from export.certificate.int8_agreement import int8_graphs
from export.certificate.parity import certificate, describe, measure, versions
from export.certificate.parity_cases import BundleTokenizer, ParityCase, make_cases, pack_cases
from export.certificate.reference import OutputArrays, canary_outputs, reference_outputs
from export.graph_spec import GraphSpec
from export.onnx.tracing import DEFAULT_LOWERING, DEFAULT_OPSET, to_onnx
from export.onnx.weight_storage import WeightStorage, round_weights
from export.progress import Progress
from models import config_io, registry
from models.family import ServingRules
from models.registry import FAMILIES, LoadedCheckpoint
from server.bundle import CARD_FILE, Bundle
from server.contract.manifest import (
    MOST_LONGER,
    MOST_SHORTER,
    Artefact,
    FileHash,
    Lowering,
    Manifest,
    read_manifest,
    sha256_of,
    write_manifest,
)
from server.contract.text import PromptTokenizer, SentenceTokenizer

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
    shorter: int | None = None,
    longer: int | None = None,
    progress: Progress = QUIET,
) -> Manifest:
    """Write the bundle of a checkpoint to the folder `out`, and return its manifest.

    A model card (MODEL_CARD.md) in the folder of the checkpoint goes with it.
    A bundle that is there already is replaced, anything else is refused. `source`: origin of the checkpoint, where that
    says more than its file's name; `licence`: as the publisher states it elsewhere than beside the checkpoint.
    `shorter`, `longer`: sides in pixels that a detector's images are resized to, in place of the checkpoint's own.
    Certificates may have failed: the manifest tells. ParityError where a graph cannot be run at all.
    """
    target = Path(out)
    name = bundle_name(target.name if name is None else name)
    with bundle_in_place(target) as folder:
        with progress.stage("read the checkpoint"):
            loaded = registry.load(checkpoint)
        loaded = replace(loaded, source=source or loaded.source, licence=licence or loaded.licence)
        progress.say(f"{loaded.family} {loaded.variant} ({loaded.container}), licence {loaded.licence}")
        family = FAMILIES[loaded.family]
        specs = family.graphs(loaded)
        # Before the weights are rounded, since a rule may be one of them.
        rules = family.serving(loaded.model, loaded.tokenizer_file).overridden(loaded.serving)
        rules = _resized(rules, shorter, longer)
        round_weights(specs, weights)
        artefacts = []
        for spec in specs:
            file = folder / f"{spec.name}.onnx"
            with progress.stage(f"trace {spec.name}"):
                used = to_onnx(spec, file, opset=opset, weights=weights, lowering=lowering)
            record = {"part": spec.name, "opset": opset, "weights": weights, "lowering": used, "file": file.name}
            artefacts.append(Artefact.model_validate({**record, "sha256": sha256_of(file)}))
        if (card := Path(checkpoint) / CARD_FILE).is_file():
            shutil.copyfile(card, folder / CARD_FILE)
        return _write_bundle(loaded, rules, folder, specs, artefacts, progress, name=name, version=version)


def _resized(rules: ServingRules, shorter: int | None, longer: int | None) -> ServingRules:
    """The rules for images of other sides; ExportError for sides too large, or a model whose inputs have one size."""
    own = rules.preprocessing
    if shorter is None and longer is None:
        return rules
    if own.longer is None:
        raise ExportError(f"--shorter and --longer are for detectors: this model takes squares of {own.shorter} pixels")
    resized = own.reduced(shorter, longer)
    if resized.shorter > MOST_SHORTER or (resized.longer or 0) > MOST_LONGER:
        raise ExportError(
            f"images of {resized.shorter} x {resized.longer} pixels (--shorter; --longer, by default in proportion): at"
            f" most {MOST_SHORTER} x {MOST_LONGER} are accepted"
        )
    return rules.overridden({"preprocessing": resized.model_dump()})


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
    reference = store_reference(folder, rules, specs, progress)
    manifest = Manifest(
        name=name,
        version=version,
        family=loaded.family,
        variant=loaded.variant,
        licence=loaded.licence,
        source=loaded.source,
        weights_sha256=loaded.weights_sha256,
        tokenizer=hashed(folder, TOKENIZER_FILE),
        config=config_io.to_json(loaded.config),
        reference=reference.file,
        canary=store(folder, CANARY_FILE, canary_outputs(specs)),
        artefacts=tuple(artefacts),
        **dict(rules),
    )
    return certify_graphs(folder, manifest, reference, progress)


@dataclass(frozen=True)
class Reference:
    """Parity cases, PyTorch's outputs for them, and the file that holds both."""

    file: FileHash
    cases: Sequence[ParityCase]
    outputs: OutputArrays


def store_reference(folder: Path, rules: ServingRules, specs: Sequence[GraphSpec], progress: Progress) -> Reference:
    """Run the modules of `specs` in PyTorch on the parity cases, and store the outputs beside the tokenizer."""
    tokenizer = _tokenizer(folder / TOKENIZER_FILE, rules)
    cases = make_cases(rules.preprocessing, tokenizer)
    with progress.stage("reference outputs in PyTorch"):
        outputs = reference_outputs(rules, tokenizer, specs, cases)
    return Reference(store(folder, REFERENCE_FILE, pack_cases(cases) | outputs), cases, outputs)


def certify_graphs(
    folder: Path, manifest: Manifest, reference: Reference, progress: Progress, *, of_template: bool = False
) -> Manifest:
    """Measure the graphs in `folder`, run by the code that serves; writes and returns the certified manifest.

    of_template: the weights are synthetic.
    """
    write_manifest(folder, manifest)
    with progress.stage("load the graphs"):
        bundle = Bundle(folder, allow_uncertified=True)
        bundle.check_canary()
    with progress.stage("certify what serves"):
        figures = measure(bundle, reference.cases, reference.outputs)
    names, measured_with = [describe(bundle, case) for case in reference.cases], versions(torch=torch.__version__)
    artefacts = tuple(
        artefact.model_copy(
            update={
                "certificate": certificate(
                    artefact, figures[artefact.part], names, versions=measured_with, of_template=of_template
                )
            }
        )
        for artefact in manifest.artefacts
    )
    certified = manifest.model_copy(update={"artefacts": artefacts})
    write_manifest(folder, certified)
    return certified


def certify_filled(folder: Path, checkpoint: str | Path, progress: Progress = QUIET) -> Manifest:
    """Certify a bundle that was filled from a template, with its own weights; returns the manifest that is written.

    ExportError where its weights are not those of the checkpoint.
    """
    with additions(folder) as added:
        manifest = read_manifest(folder)
        with progress.stage("read the checkpoint"):
            loaded = registry.load(checkpoint)
        if loaded.weights_sha256 != manifest.weights_sha256:
            raise ExportError(f"{folder} has other weights than {checkpoint}: SHA-256 {manifest.weights_sha256}")
        rules = ServingRules.model_validate({name: getattr(manifest, name) for name in ServingRules.model_fields})
        graphs = tuple(a for a in manifest.artefacts if a.engine is None and a.precision == "fp32")
        link_files(folder, (manifest.tokenizer.file, manifest.canary.file), added)
        for graph in graphs:
            link_files(folder, files_of(graph), added)
        reference = store_reference(added, rules, FAMILIES[loaded.family].graphs(loaded), progress)
        changes = {"reference": reference.file, "artefacts": graphs}
        certified = certify_graphs(added, manifest.model_copy(update=changes), reference, progress)
        int8 = int8_graphs(manifest)  # certified by the float32 graphs, with these weights
        artefacts = (*int8.values(), *certified.artefacts)
        return put(added, folder, certified.model_copy(update={"artefacts": artefacts}))


def _tokenizer(file: Path, rules: ServingRules) -> BundleTokenizer:
    return PromptTokenizer(file, rules.text) if rules.text.style == "phrases" else SentenceTokenizer(file, rules.text)
