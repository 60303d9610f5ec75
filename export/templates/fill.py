"""Fills a graph template with the weights of a checkpoint, to a bundle; needs neither PyTorch nor the package onnx.

Weights go from the mapped checkpoint to the file of each part, tensor by tensor: the memory that this takes is that of
the pages of the checkpoint and of the largest tensor.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from export import ExportError
from export.bundle_folder import CANARY_FILE, TOKENIZER_FILE, bundle_in_place, hashed, store
from export.progress import Progress
from export.templates.template import (
    GraphTemplate,
    Initializer,
    StoredTemplate,
    TemplatePart,
    TemplateRules,
    offsets_of,
)
from models import CheckpointError, UnknownCheckpoint, WeightsDoNotFit, checkpoints, config_io, listed, tokenizers
from models.checkpoints import StoredWeights
from models.clip import description as clip_description
from models.clip.config import ClipConfig
from models.files_beside import read_json
from models.grounding_dino import description as grounding_dino_description
from models.grounding_dino.config import GroundingDinoConfig
from models.stored_arrays import NUMPY, Array, of_type
from models.tensor_sources import PublishedTable, Source, built, check_names, same
from server.contract.manifest import Artefact, FileHash, Manifest, Preprocessing, TemplateRecord, write_manifest
from server.runtimes.ort import OrtSession

QUIET = Progress(quiet=True)
# Config and reader of the files beside the weights, of families that have one; `models.registry` needs PyTorch.
DESCRIPTIONS: dict[str, tuple[type[Any], Any]] = {
    "clip": (ClipConfig, clip_description),
    "grounding_dino": (GroundingDinoConfig, grounding_dino_description),
}


def fill_bundle(
    stored: StoredTemplate,
    checkpoint: Path,
    out: Path,
    *,
    licence: str,
    name: str | None = None,
    source: str | None = None,
    progress: Progress = QUIET,
) -> Manifest:
    """Write the bundle of a published checkpoint to the folder `out`, and return its manifest.

    A bundle that is there already is replaced, anything else is refused. `name`: of the bundle, where it is not the
    template's; `source`: origin of the checkpoint, where that says more than its file's name. CheckpointError where the
    checkpoint does not fit the template exactly.
    """
    template = stored.template
    with progress.stage("read the checkpoint"):
        weights = checkpoints.read(checkpoint)
        digest = weights.sha256()
    weights, container, table = _recognised(template, weights)
    rules = _rules(template, weights, container, table, progress)
    with bundle_in_place(out) as folder:
        with progress.stage("fill in the weights"):
            artefacts = fill_parts(template, stored.graphs, table, weights.tensors, folder, path=str(checkpoint))
        rules = rules.model_copy(update=_scaled(template, table, weights.tensors))
        del weights
        shutil.copyfile(tokenizers.standard_file(template.vocabulary), folder / TOKENIZER_FILE)
        with progress.stage("run the canary"):
            canary = run_canary(folder, artefacts, stored.canary_inputs)
        manifest = Manifest(
            name=name or template.name,
            family=template.family,
            variant=template.variant,
            licence=licence,
            source=source or checkpoint.name,
            weights_sha256=digest,
            tokenizer=hashed(folder, TOKENIZER_FILE),
            template=TemplateRecord(name=template.name, sha256=stored.sha256, container=container),
            canary=store(folder, CANARY_FILE, canary),
            artefacts=tuple(artefacts),
            **dict(rules),
        )
        write_manifest(folder, manifest)
    return manifest


def misfit(template: GraphTemplate, stored: StoredWeights) -> str | None:
    """The reason why a checkpoint is not the template's model, by its tensors and the files beside it, or None."""
    try:
        weights, container, table = _recognised(template, stored)
        absent = check_all_names(template, table, weights.tensors)
        _rules(template, weights, container, table, QUIET)
        _check_vocabulary(template, stored)
    except CheckpointError as error:
        return str(error)
    faults = dict[str, str]()
    for key in template.tensors.keys() - absent:
        _value(key, template, table, weights.tensors, faults)
    return listed(list(faults.values())) if faults else None


def _check_vocabulary(template: GraphTemplate, stored: StoredWeights) -> None:
    """UnknownCheckpoint where the tokenizer beside the weights has other tokens than that of the bundle will have."""
    if stored.tokenizer_file is None:
        return
    own, standard = (
        _vocabulary(file) for file in (stored.tokenizer_file, tokenizers.standard_file(template.vocabulary))
    )
    if own != standard:
        raise UnknownCheckpoint(f"{stored.tokenizer_file.name} has a vocabulary of its own")


def _vocabulary(file: Path) -> Any:
    model = read_json(file).get("model")
    return model.get("vocab") if isinstance(model, dict) else None


def fill_parts(
    template: GraphTemplate,
    graphs: Mapping[str, bytes],
    table: PublishedTable,
    tensors: Mapping[str, Array],
    folder: Path,
    *,
    path: str = "",
) -> list[Artefact]:
    """Write the graph and the weights of every part to `folder`; WeightsDoNotFit names all tensors that do not fit."""
    absent = check_all_names(template, table, tensors, path=path)
    artefacts, faults, used = [], dict[str, str](), set[str]()
    for part in template.parts:
        (folder / part.artefact.file).write_bytes(graphs[part.artefact.file])
        with (folder / part.data_file).open("wb") as file:
            digest = _write_initializers(file, part, template, table, tensors, faults)
        used |= {initializer.key for initializer in part.initializers}
        data = FileHash(file=part.data_file, sha256=digest)
        artefacts.append(part.artefact.model_copy(update={"data": (data,)}))
    # The graphs do without the rest, but the checkpoint must be the model's.
    for key in template.tensors.keys() - used - absent:
        _value(key, template, table, tensors, faults)
    if faults:
        raise WeightsDoNotFit(wrong=list(faults.values()), path=path)
    return artefacts


def check_all_names(
    template: GraphTemplate, table: PublishedTable, tensors: Mapping[str, Array], *, path: str = ""
) -> set[str]:
    """WeightsDoNotFit names all tensors that are missing or left over; returns keys of constants that are not stored.

    The graphs hold these constants, and newer programs do not store them.
    """
    absent = {
        key
        for key, wanted in template.tensors.items()
        if wanted.sha256 and not any(alias in tensors for part in table.sources[key].parts for alias in part)
    }
    sources = [source for key, source in table.sources.items() if key not in absent]
    check_names(tensors.keys(), sources, surplus=table.surplus, path=path)
    return absent


def _write_initializers(
    file: IO[bytes],
    part: TemplatePart,
    template: GraphTemplate,
    table: PublishedTable,
    tensors: Mapping[str, Array],
    faults: dict[str, str],
) -> str:
    """Write the flat file of a part; returns its SHA-256."""
    digest, position = hashlib.sha256(), 0
    for initializer, offset in zip(part.initializers, offsets_of(part.initializers), strict=True):
        value = _value(initializer.key, template, table, tensors, faults)
        if value is None:
            continue  # the file is thrown away
        for piece in (bytes(offset - position), _stored(value, initializer)):
            file.write(piece)
            digest.update(piece)
        position = offset + initializer.nbytes
    return digest.hexdigest()


def _stored(value: Array, initializer: Initializer) -> memoryview:
    array = of_type(value.T if initializer.transposed else value, "<f4")
    assert array.shape == initializer.shape, (initializer, array.shape)
    return array.reshape(-1).view(np.uint8).data


def _value(
    key: str,
    template: GraphTemplate,
    table: PublishedTable,
    tensors: Mapping[str, Array],
    faults: dict[str, str],
) -> Array | None:
    """The model's tensor, or None and a fault."""
    wanted = template.tensors[key]
    try:
        value: Array = built(table.sources[key], tensors, NUMPY, shape=wanted.shape, kind=wanted.kind)
        if wanted.sha256 and digest_of_constant(value) != wanted.sha256:
            raise ValueError(f"{table.sources[key].parts[0][0]} has other values than the model computes with")
    except ValueError as error:
        faults[key] = str(error)
        return None
    return value


def digest_of_constant(value: Array) -> str:
    """SHA-256 of whole numbers, as int64."""
    return hashlib.sha256(of_type(value, "<i8").tobytes()).hexdigest()


def run_canary(folder: Path, artefacts: Sequence[Artefact], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of the canary as `server.bundle.Bundle.check_canary` reads them, with the outputs of ONNX Runtime.

    One part is open at a time. ExportError where outputs are not numbers, as of weights that are none.
    """
    arrays, results = dict(inputs), dict[str, npt.NDArray[np.float32]]()
    taken, made = set[str](), dict[str, npt.NDArray[np.float32]]()
    for artefact in artefacts:
        session = OrtSession(folder / artefact.file)
        own = {name: inputs.get(f"{artefact.part}/in/{name}", results.get(name)) for name in session.inputs}
        taken |= {name for name in session.inputs if f"{artefact.part}/in/{name}" not in inputs}
        outputs = session.run({name: value for name, value in own.items() if value is not None})
        if strange := [name for name, value in outputs.items() if not np.isfinite(value).all()]:
            raise ExportError(f"with these weights {artefact.part} puts out no numbers in {', '.join(strange)}")
        results |= outputs
        made |= {f"{artefact.part}/out/{name}": value for name, value in outputs.items()}
    return arrays | {name: value for name, value in made.items() if name.rpartition("/")[2] not in taken}


def _recognised(template: GraphTemplate, stored: StoredWeights) -> tuple[StoredWeights, str, PublishedTable]:
    """The weights by the names of the container that most of them have, and its table.

    UnknownCheckpoint for those of another model.
    """
    if stored.is_openset:
        raise UnknownCheckpoint("it was trained here: openset export makes its bundle, a template none")
    tables = {name: data.table() for name, data in template.containers.items()}
    for weights in stored.prefixes_stripped():
        shares = {name: len(weights.tensors.keys() & _names(table.sources.values())) for name, table in tables.items()}
        best = max(shares, key=lambda name: shares[name])
        if 2 * shares[best] > len(weights.tensors):
            return weights, best, tables[best]
    raise UnknownCheckpoint(
        f"its tensors ({', '.join(list(stored.tensors)[:5])}, ...) are not {template.name}'s, in the containers"
        f" {', '.join(tables)}"
    )


def _rules(
    template: GraphTemplate, weights: StoredWeights, container: str, table: PublishedTable, progress: Progress
) -> TemplateRules:
    """The serving rules, with the preprocessing that the files beside the weights tell.

    UnknownCheckpoint where these files describe another model.
    """
    described, told = weights.config, dict[str, Any]()
    if template.family in DESCRIPTIONS:
        kind, description = DESCRIPTIONS[template.family]
        described = description.described_config(weights, container)
        told = description.preprocessing_rules(weights, container, config_io.from_json(kind, template.config))
    if described is not None:
        _check_config(described, table.config, template.name)
    if container == "huggingface" and "mean" not in told:
        progress.say("no preprocessor_config.json is beside it: the preprocessing is that of the paper's code")
    if weights.choice:
        progress.say(weights.choice)
    preprocessing = Preprocessing.model_validate(template.rules.preprocessing.model_dump() | told)
    return template.rules.model_copy(update={"preprocessing": preprocessing})


def _names(sources: Any) -> set[str]:
    return {alias for source in sources for part in source.parts for alias in part}


def _check_config(config: Mapping[str, Any], accepted: Mapping[str, tuple[Any, ...]], name: str) -> None:
    """UnknownCheckpoint where the config.json describes another model than the template."""
    if "activation" in config:  # all that is told: its sizes follow from its shapes
        config, accepted = {"activation": config["activation"]}, {"activation": accepted["text_config.hidden_act"]}
    for entry, values in accepted.items():
        *sections, leaf = entry.split(".")
        found: Any = config
        for section in sections:
            # Older files repeat a section as "..._config_dict", which takes precedence, as in transformers.
            found = (found.get(f"{section}_dict") or found.get(section) or {}) if isinstance(found, dict) else None
        value = found.get(leaf) if isinstance(found, dict) else found
        if value not in values:
            raise UnknownCheckpoint(f"config.json has {entry} {value!r}, {name} has {values[0]!r}: it is another model")


def _scaled(template: GraphTemplate, table: PublishedTable, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The classification rules with the checkpoint's own logit scale."""
    rules = template.rules.classification
    if template.logit_scale is None or rules is None:
        return {}
    logarithm = of_type(_one(table.sources[template.logit_scale], tensors), np.float32)
    with np.errstate(over="ignore"):
        scale = float(np.exp(logarithm, dtype=np.float32))
    if not 0 < scale < np.inf:
        raise UnknownCheckpoint(f"its logit scale is {scale}; a positive number is expected")
    return {"classification": rules.model_copy(update={"logit_scale": scale})}


def _one(source: Source, tensors: Mapping[str, Array]) -> Array:
    return tensors[next(alias for alias in source.parts[0] if alias in tensors)]


def own_table(template: GraphTemplate) -> PublishedTable:
    """Table of tensors that are named and laid out as the model's own."""
    return PublishedTable({key: same(key) for key in template.tensors})
