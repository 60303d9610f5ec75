"""Reads checkpoint files and folders into named arrays, without PyTorch and without executing anything in them."""

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import UnreadableCheckpoint, UnsafeCheckpoint, listed
from models.file_kinds import is_safetensors, is_zip, other_kind
from models.files_beside import FilesBeside, read_json
from models.safetensors_file import read_safetensors
from models.script_archive import read_script_archive
from models.state_dict_choice import choose_state_dict
from models.stored_arrays import Array
from models.tensor_records import TensorReader
from models.torch_archive import LegacyFile, ZipArchive, faults_named
from server.contract.manifest import sha256_of

OPENSET_FORMAT = "openset"
_MAX_NAME = 200
MAX_PREFIXES = 4  # such as "module.model."
WEIGHTS_FILE = "model.safetensors"
# Weights of a folder, in order of preference; the latter are open_clip's.
_WEIGHTS = (WEIGHTS_FILE, "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class StoredWeights:
    """Contents of a checkpoint: tensors by stored name, its files, and the files that describe them.

    tensors: views of the mapped files, of their stored type. is_script: a TorchScript archive, which for CLIP is
    OpenAI's own container. choice: a sentence where other weights in the file were left alone.
    """

    tensors: dict[str, Array]
    files: tuple[Path, ...]
    beside: FilesBeside
    is_script: bool = False
    choice: str | None = None

    @property
    def config(self) -> dict[str, Any] | None:
        """The config.json beside the weights."""
        return self.beside.config

    @property
    def tokenizer_file(self) -> Path | None:
        """The tokenizer.json beside the weights."""
        return self.beside.tokenizer_file

    @property
    def is_openset(self) -> bool:
        """True for a folder that `models.registry.save` wrote."""
        return self.config is not None and self.config.get("format") == OPENSET_FORMAT

    def prefixes_stripped(self) -> Iterator["StoredWeights"]:
        """The weights as they are named, then without what all names begin with: programs wrap models in modules."""
        stored = self
        yield stored
        for _ in range(MAX_PREFIXES):
            heads = {name.partition(".")[0] for name in stored.tensors}
            if len(heads) != 1 or not all("." in name for name in stored.tensors):
                return
            stored = replace(stored, tensors={name.partition(".")[2]: value for name, value in stored.tensors.items()})
            yield stored

    def sha256(self) -> str:
        """SHA-256 of the weights file; for shards, of the lines "hash  name" in order."""
        hashes = [sha256_of(file) for file in self.files]
        if len(hashes) == 1:
            return hashes[0]
        lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(hashes, self.files, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()


def read(path: str | Path) -> StoredWeights:
    """Read a checkpoint file or folder of any container into arrays of their stored type (`models.stored_arrays`).

    The container is recognised by its content. Files beside it that describe it are read too: config.json and
    open_clip_config.json, the image processor's, the tokenizer's, the model card.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    if fault := other_kind(path):
        raise UnreadableCheckpoint(f"{path} is {fault}")
    beside = FilesBeside.of(path.parent)
    if _is_script_archive(path):
        return StoredWeights(read_script_archive(path), (path,), beside, is_script=True)
    tensors, choice = _read_tensors(path)
    return StoredWeights(tensors, (path,), beside, choice=choice)


def _read_folder(folder: Path) -> StoredWeights:
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files = [folder / name]
        elif index.is_file():
            files = _shards(index)
        else:
            continue
        tensors: dict[str, Array] = {}
        choice = None
        for file in files:
            if fault := other_kind(file):
                raise UnreadableCheckpoint(f"{file} is {fault}")
            shard, choice = _read_tensors(file)
            if repeated := sorted(shard.keys() & tensors.keys()):
                raise UnreadableCheckpoint(f"{file} repeats tensors of another shard: {listed(repeated)}")
            tensors |= shard
        return StoredWeights(tensors, tuple(files), FilesBeside.of(folder), choice=choice)
    raise UnreadableCheckpoint(f"{folder} holds no weights: one of {', '.join(_WEIGHTS)} is expected, or its index")


def _shards(index: Path) -> list[Path]:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UnreadableCheckpoint(f"{index} has no 'weight_map'")
    names = sorted({str(name) for name in mapping.values()})
    for name in names:
        if Path(name).name != name or len(name) > _MAX_NAME:
            raise UnsafeCheckpoint(f"{index} names {name[:_MAX_NAME]!r}, which is not a plain file name")
        if not (index.parent / name).is_file():
            raise UnreadableCheckpoint(f"{index} names the shard {name}, which does not exist")
    return [index.parent / name for name in names]


def _read_tensors(path: Path) -> tuple[dict[str, Array], str | None]:
    """Tensors of one file, and a sentence where other weights in it were left alone."""
    if is_safetensors(path):
        return _read_safetensors(path), None
    with faults_named(path, "checkpoint"):
        if is_zip(path):
            with zipfile.ZipFile(path) as archive:
                saved = ZipArchive(archive, reader=TensorReader())
                chosen = choose_state_dict(saved.root)
                return saved.tensors(chosen.tensors), chosen.sentence
        legacy = LegacyFile.of(path)
        chosen = choose_state_dict(legacy.root)
        return legacy.tensors(path, chosen.tensors), chosen.sentence


def _read_safetensors(path: Path) -> dict[str, Array]:
    try:
        return read_safetensors(path)
    except (ValueError, OSError) as error:
        raise UnreadableCheckpoint(f"{path} is damaged or no safetensors file: {error}") from error


def _is_script_archive(path: Path) -> bool:
    if not is_zip(path):
        return False
    with faults_named(path, "checkpoint"), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
