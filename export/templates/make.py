"""Makes the graph templates of the official models, with PyTorch: `python -m export.templates.make [NAME ...]`.

A template is traced with one set of synthetic weights and certified with another, so that nothing of the first can have
stayed in the graphs: it is filled as a user's is, and measured against PyTorch at sizes that no graph was traced with.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export import ExportError
from export.bundle import certify_graphs, store_reference
from export.bundle_folder import CANARY_FILE, TOKENIZER_FILE, hashed, store
from export.certificate.parity import shortfalls
from export.certificate.reference import canary_outputs
from export.graph_spec import GraphSpec
from export.onnx.tracing import DEFAULT_OPSET
from export.progress import Progress, peak_memory_bytes
from export.templates.fill import digest_of_constant, fill_parts, own_table
from export.templates.graphs import TracedPart, check_all_differ, trace_part
from export.templates.template import (
    ContainerTable,
    GraphTemplate,
    ModelTensor,
    TemplatePart,
    TemplateRules,
    template_file,
    write_template,
)
from models import config_io, tokenizers
from models.clip.config import CLIP_CONFIGS, GELU_CONFIGS
from models.family import ServingRules
from models.glip.config import GLIP_CONFIGS
from models.grounding_dino.config import GROUNDING_DINO_CONFIGS
from models.model_zoo import OFFICIAL
from models.registry import FAMILIES, LoadedCheckpoint
from server.contract.manifest import Artefact, Certificate, Manifest

CONFIGS: dict[str, dict[str, Any]] = {
    "clip": CLIP_CONFIGS | GELU_CONFIGS,
    "grounding_dino": GROUNDING_DINO_CONFIGS,
    "glip": GLIP_CONFIGS,
}
TRACED_SEED, CERTIFIED_SEED = 1, 2
NO_HASH = "0" * 64
LOGIT_SCALE = "logit_scale"  # key of its logarithm in models that classify


@dataclass(frozen=True)
class ModelSpec:
    """A model to make a template of: its name, and its config among those of its family."""

    name: str
    family: str
    variant: str
    config: Any

    @classmethod
    def official(cls, name: str) -> "ModelSpec":
        """That of an official model."""
        official = OFFICIAL[name]
        return cls(name, official.family, official.variant, CONFIGS[official.family][official.variant])

    def synthetic(self, seed: int) -> LoadedCheckpoint:
        """The model with synthetic weights: as it is initialised, each tensor shaken."""
        family = FAMILIES[self.family]
        torch.manual_seed(seed)
        model = shaken(family.model(self.config), seed)
        return LoadedCheckpoint(
            family=self.family,
            variant=self.variant,
            container="synthetic",
            model=model,
            config=self.config,
            licence="none",
            source="synthetic weights",
            weights_sha256=NO_HASH,
            tokenizer_file=tokenizers.standard_file(family.vocabulary),
        )


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """Add noise to every float tensor of the model: no two are equal then, and no part is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor += 0.02 * noise if tensor.dim() > 1 else 0.05 * noise.abs()
    return model.eval()


def make_template(spec: ModelSpec, file: Path, *, certify: bool = True, progress: Progress) -> GraphTemplate:
    """Write the template of a model to `file`; ExportError where it falls short of its certificate.

    certify: else the template has no certificates, and bundles of it are not served.
    """
    with tempfile.TemporaryDirectory(prefix="openset-template-") as scratch:
        template, graphs, canary = _traced(spec, Path(scratch), progress)
        if certify:
            template = _certified(spec, template, graphs, Path(scratch), progress)
        write_template(file, template, graphs, canary)
    return template


def _traced(spec: ModelSpec, scratch: Path, progress: Progress) -> tuple[GraphTemplate, dict[str, bytes], Any]:
    """The template without certificates, its graphs, and the inputs of its canary."""
    family = FAMILIES[spec.family]
    loaded = spec.synthetic(TRACED_SEED)
    check_all_differ(loaded.model)
    parts = []
    graph_specs: Sequence[GraphSpec] = family.graphs(loaded)
    for graph_spec in graph_specs:
        with progress.stage(f"trace {graph_spec.name}"):
            parts.append((graph_spec.name, trace_part(graph_spec, loaded.model, scratch)))
    rules = family.serving(loaded.model, loaded.tokenizer_file)
    canary = {f"{s.name}/in/{name}": value.numpy() for s in graph_specs for name, value in s.canary.items()}
    graphs = {f"{name}.onnx": part.graph for name, part in parts}
    template = GraphTemplate(
        name=spec.name,
        family=spec.family,
        variant=spec.variant,
        config=config_io.to_json(spec.config),
        vocabulary=family.vocabulary,
        rules=TemplateRules.model_validate(rules.model_dump()),
        logit_scale=LOGIT_SCALE if rules.classification else None,
        tensors=_tensors(loaded.model, [part for _, part in parts]),
        containers={
            name: ContainerTable.of(table) for name, table in family.weights.published_tables(spec.config).items()
        },
        parts=tuple(_part(name, part, graphs[f"{name}.onnx"]) for name, part in parts),
        canary_sha256=NO_HASH,
    )
    return template, graphs, canary


def _tensors(model: nn.Module, parts: Sequence[TracedPart]) -> dict[str, ModelTensor]:
    constants = {key for part in parts for key in part.constants}
    # Equal constants are merged, and are known by the name of one: those of other layers must be as the model has them.
    shapes = {tuple(model.state_dict()[key].shape) for key in constants}
    tensors = {}
    for key, tensor in model.state_dict().items():
        kind = "f" if tensor.is_floating_point() else "i"
        fixed = kind == "i" and tuple(tensor.shape) in shapes
        digest = digest_of_constant(tensor.numpy()) if fixed else None
        tensors[key] = ModelTensor(shape=tuple(tensor.shape), kind=kind, sha256=digest)
    return tensors


def _part(name: str, part: TracedPart, graph: bytes) -> TemplatePart:
    artefact = Artefact.model_validate(
        {
            "part": name,
            "opset": DEFAULT_OPSET,
            "lowering": part.lowering,
            "file": f"{name}.onnx",
            "sha256": hashlib.sha256(graph).hexdigest(),
        }
    )
    return TemplatePart(artefact=artefact, data_file=part.data_file, initializers=part.initializers)


def _certified(
    spec: ModelSpec, template: GraphTemplate, graphs: dict[str, bytes], scratch: Path, progress: Progress
) -> GraphTemplate:
    """The template with the certificates of its graphs, filled with other synthetic weights than it was traced with."""
    loaded = spec.synthetic(CERTIFIED_SEED)
    family = FAMILIES[spec.family]
    rules: ServingRules = family.serving(loaded.model, loaded.tokenizer_file)
    _check_rules(template, rules)
    folder = scratch / "bundle"
    folder.mkdir()
    arrays = {key: tensor.numpy() for key, tensor in loaded.model.state_dict().items()}
    artefacts = fill_parts(template, graphs, own_table(template), arrays, folder)
    shutil.copyfile(loaded.tokenizer_file, folder / TOKENIZER_FILE)
    graph_specs = family.graphs(loaded)
    reference = store_reference(folder, rules, graph_specs, progress)
    manifest = Manifest(
        name=spec.name,
        family=spec.family,
        variant=spec.variant,
        licence=loaded.licence,
        source=loaded.source,
        weights_sha256=NO_HASH,
        tokenizer=hashed(folder, TOKENIZER_FILE),
        reference=reference.file,
        canary=store(folder, CANARY_FILE, canary_outputs(graph_specs)),
        artefacts=tuple(artefacts),
        **dict(rules),
    )
    manifest = certify_graphs(folder, manifest, reference, progress, of_template=True)
    certificates = {artefact.part: artefact.certificate for artefact in manifest.artefacts}
    if faults := [f"{part}: {fault}" for part, given in certificates.items() for fault in _faults(given)]:
        raise ExportError(f"the template of {spec.name} falls short: {'; '.join(faults)}")
    parts = tuple(
        part.model_copy(
            update={"artefact": part.artefact.model_copy(update={"certificate": certificates[part.artefact.part]})}
        )
        for part in template.parts
    )
    return template.model_copy(update={"parts": parts})


def _faults(certificate: Certificate | None) -> list[str]:
    return ["it has no certificate"] if certificate is None else shortfalls(certificate.figures)


def _check_rules(template: GraphTemplate, rules: ServingRules) -> None:
    """ExportError where a rule follows the weights, other than the logit scale."""
    known, found = template.rules.model_dump(), rules.model_dump()
    for own in (known, found):
        (own["classification"] or {}).pop("logit_scale", None)
    if known != found:
        raise ExportError(f"the serving rules of {template.name} depend on its weights")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the templates of these official models, or of all."""
    parser = argparse.ArgumentParser(prog="python -m export.templates.make", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"official models: {', '.join(OFFICIAL)}")
    parser.add_argument("--out", type=Path, help="folder of the templates (default: the one that ships)")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in OFFICIAL]:
        parser.error(f"{unknown[0]!r} is no official model; known are {', '.join(OFFICIAL)}")
    progress = Progress()
    for name in args.names or OFFICIAL:
        file = args.out / f"{name}.zip" if args.out else template_file(name)
        with progress.stage(name):
            make_template(ModelSpec.official(name), file, progress=progress)
        size, peak = file.stat().st_size / 1e3, peak_memory_bytes() / 2**30
        progress.say(f"{file}: {size:.0f} kB; peak memory: {peak:.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
