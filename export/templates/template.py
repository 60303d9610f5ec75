"""Graph templates: the graphs of a published model without its weights, and the tables by which they are filled in.

A template is a zip: `template.json` (`GraphTemplate`), an ONNX graph for each part, and the inputs of the canary. The
weights of a part are external data of its graph, in one flat file that is written when the template is filled.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export import ExportError
from models.tensor_sources import PublishedTable, Source
from server.contract.manifest import (
    Artefact,
    Buckets,
    BundleName,
    ClassificationRules,
    DetectionRules,
    FamilyName,
    FileName,
    Preprocessing,
    Sha256,
    TextRules,
)

DESCRIPTION_FILE, CANARY_INPUTS_FILE = "template.json", "canary_inputs.npz"
PUBLISHED = Path(__file__).parent / "published"
# Initializers begin at multiples of this, as the widest registers load them.
ALIGNMENT = 64
_FLOAT_BYTES = 4
# Entries of a zip carry a time; one for all keeps equal templates equal.
_TIME = (1980, 1, 1, 0, 0, 0)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Initializer(_Data):
    """A float32 initializer in the flat file: one of the model's tensors, its matrix `transposed` where the graph wants
    it so, of this `shape` as it is stored.
    """

    key: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * _FLOAT_BYTES


class TemplatePart(_Data):
    """A graph of the template. `artefact` lacks its `data`, the file of these initializers in their order."""

    artefact: Artefact
    data_file: FileName
    initializers: tuple[Initializer, ...]


class ModelTensor(_Data):
    """Shape of a tensor of the model, and its kind: "f" for floats, "i" for whole numbers.

    sha256: of the values, as int64, where the graphs hold them as constants.
    """

    shape: tuple[int, ...]
    kind: str = Field(pattern="^[fi]$")
    sha256: Sha256 | None = None


class ContainerTable(_Data):
    """A `models.tensor_sources.PublishedTable` as data."""

    sources: dict[str, list[Any]]
    surplus: tuple[str, ...] = ()
    config: dict[str, tuple[Any, ...]] = {}

    @classmethod
    def of(cls, table: PublishedTable) -> "ContainerTable":
        """Data of a table."""
        sources = {key: source.to_json() for key, source in table.sources.items()}
        return cls(sources=sources, surplus=tuple(table.surplus), config=dict(table.config))

    def table(self) -> PublishedTable:
        """The table; ValueError where a source is none."""
        sources = {key: Source.from_json(data) for key, data in self.sources.items()}
        return PublishedTable(sources, self.surplus, self.config)


class TemplateRules(_Data):
    """Sections of the manifest that the model's family fills in."""

    preprocessing: Preprocessing
    text: TextRules
    classification: ClassificationRules | None = None
    detection: DetectionRules | None = None
    buckets: Buckets = Buckets()


class GraphTemplate(_Data):
    """Contents of `template.json`.

    config: of the model, as `models.config_io` writes it. vocabulary: of the tokenizer (`models.tokenizers`).
    tensors: of the model, by the keys that `containers` fill. logit_scale: key of the tensor whose exponential is the
    logit scale of the classification. canary_sha256: of the canary's inputs.
    """

    format: int = 1
    name: BundleName
    family: FamilyName
    variant: str
    config: dict[str, Any]
    vocabulary: str
    rules: TemplateRules
    logit_scale: str | None = None
    tensors: dict[str, ModelTensor]
    containers: dict[str, ContainerTable]
    parts: tuple[TemplatePart, ...]
    canary_sha256: Sha256


@dataclass(frozen=True)
class StoredTemplate:
    """A template and its files: graphs by name, the canary's inputs; `sha256` is that of its description."""

    template: GraphTemplate
    graphs: Mapping[str, bytes]
    canary_inputs: Mapping[str, npt.NDArray[Any]]
    sha256: str


def offsets_of(initializers: tuple[Initializer, ...] | list[Initializer]) -> list[int]:
    """Position of each initializer in the flat file."""
    offsets, position = [], 0
    for initializer in initializers:
        position = -(-position // ALIGNMENT) * ALIGNMENT
        offsets.append(position)
        position += initializer.nbytes
    return offsets


def template_file(name: str) -> Path:
    """Path of the template of an official model, which may not be there."""
    return PUBLISHED / f"{name}.zip"


def published_templates() -> list[Path]:
    """Files of all templates that ship."""
    return sorted(PUBLISHED.glob("*.zip"))


def write_template(
    file: Path, template: GraphTemplate, graphs: Mapping[str, bytes], canary_inputs: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write a template; equal ones give equal files."""
    canary = pack_inputs(canary_inputs)
    template = template.model_copy(update={"canary_sha256": hashlib.sha256(canary).hexdigest()})
    description = json.dumps(template.model_dump(mode="json", exclude_defaults=True), separators=(",", ":"))
    entries = {DESCRIPTION_FILE: description.encode(), CANARY_INPUTS_FILE: canary, **graphs}
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_LZMA)


def pack_inputs(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The arrays as a file of NumPy, not compressed: the template is."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_template(file: Path) -> StoredTemplate:
    """Read a template, the hashes of its files compared; ExportError where it is damaged or of another version."""
    try:
        with zipfile.ZipFile(file) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        template = GraphTemplate.model_validate_json(content[DESCRIPTION_FILE])
        graphs = {part.artefact.file: content[part.artefact.file] for part in template.parts}
        wanted = {part.artefact.file: part.artefact.sha256 for part in template.parts}
        wanted[CANARY_INPUTS_FILE] = template.canary_sha256
        for name, digest in wanted.items():
            if hashlib.sha256(content[name]).hexdigest() != digest:
                raise ValueError(f"{name} is not the file that it describes")
        with np.load(io.BytesIO(content[CANARY_INPUTS_FILE]), allow_pickle=False) as arrays:
            inputs = dict(arrays)
    except (OSError, KeyError, ValueError, ValidationError, zipfile.BadZipFile) as error:
        raise ExportError(f"{file} is damaged or no template of this version: {error}") from error
    return StoredTemplate(template, graphs, inputs, hashlib.sha256(content[DESCRIPTION_FILE]).hexdigest())
