"""Reads checkpoint files and folders into named tensors, without executing anything in them."""

import hashlib
import json
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from models import UnreadableCheckpoint, UnsafeCheckpoint, listed
from models.script_archive import read_script_archive

OPENSET_FORMAT = "openset"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
# Messages of torch.load(weights_only=True) that refuse a non-tensor, unlike those for a damaged file.
NOT_A_TENSOR = re.compile(r"(Unsupported|unsupported) (global: |GLOBAL|class)[^.]*\S*|(Trying to call|Can only)[^\n]*")


@dataclass(frozen=True)
class StoredWeights:
    """Contents of a checkpoint: tensors by stored name, its files, and the config.json and tokenizer beside them."""

    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    config: dict[str, Any] | None = None
    tokenizer_file: Path | None = None

    @property
    def is_openset(self) -> bool:
        """True for a folder that `models.registry.save` wrote."""
        return self.config is not None and self.config.get("format") == OPENSET_FORMAT

    def sha256(self) -> str:
        """SHA-256 of the weights file; for shards, of the lines "hash  name" in order."""
        hashes = [_sha256_of(file) for file in self.files]
        if len(hashes) == 1:
            return hashes[0]
        lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(hashes, self.files, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()


def read(path: str | Path) -> StoredWeights:
    """Read a checkpoint file or folder of any container into CPU tensors of their stored dtype."""
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return StoredWeights(_read_safetensors(path), (path,), *_beside(path.parent))
    if _is_script_archive(path):
        return StoredWeights(read_script_archive(path), (path,))
    return StoredWeights(_read_pickle(path), (path,))


def _read_folder(folder: Path) -> StoredWeights:
    config, tokenizer = _beside(folder)
    for name, reader in ((WEIGHTS_FILE, _read_safetensors), ("pytorch_model.bin", _read_pickle)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files: list[Path] = [folder / name]
        elif index.is_file():
            files = _shards(index)
        else:
            continue
        tensors: dict[str, Tensor] = {}
        for file in files:
            shard = reader(file)
            if repeated := sorted(shard.keys() & tensors.keys()):
                raise UnreadableCheckpoint(f"{file} repeats tensors of another shard: {listed(repeated)}")
            tensors |= shard
        return StoredWeights(tensors, tuple(files), config, tokenizer)
    raise UnreadableCheckpoint(
        f"{folder} holds no weights: {WEIGHTS_FILE} or pytorch_model.bin (or its index) is expected"
    )


def _beside(folder: Path) -> tuple[dict[str, Any] | None, Path | None]:
    config, tokenizer = folder / CONFIG_FILE, folder / TOKENIZER_FILE
    return (_read_json(config) if config.is_file() else None), (tokenizer if tokenizer.is_file() else None)


def _shards(index: Path) -> list[Path]:
    mapping = _read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UnreadableCheckpoint(f"{index} has no 'weight_map'")
    names = sorted({str(name) for name in mapping.values()})
    for name in names:
        if Path(name).name != name:
            raise UnsafeCheckpoint(f"{index} names {name!r}, which is not a plain file name")
        if not (index.parent / name).is_file():
            raise UnreadableCheckpoint(f"{index} names the shard {name}, which does not exist")
    return [index.parent / name for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested too deeply
        raise UnreadableCheckpoint(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(data).__name__}, an object is expected")
    return data


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UnreadableCheckpoint(f"{path} is damaged or no safetensors file: {error}") from error


def _is_script_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise UnreadableCheckpoint(f"{path} is damaged: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Read a `torch.save` of a state dict, or of {"model": state dict} (IDEA-Research)."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails anywhere in the unpickler, in any way
        if isinstance(error, pickle.UnpicklingError) and (refused := NOT_A_TENSOR.search(str(error))):
            raise UnsafeCheckpoint(f"{path} contains more than tensors and was not read: {refused[0]}") from error
        raise UnreadableCheckpoint(f"{path} is damaged or no checkpoint: {_reason(error)}") from error
    if isinstance(data, dict) and isinstance(data.get("model"), dict):
        data = data["model"]
    if not isinstance(data, dict) or not data:
        raise UnreadableCheckpoint(
            f"{path} holds a {type(data).__name__}; a state dict or {{'model': state dict}} is expected"
        )
    strange = [f"{name} ({type(value).__name__})" for name, value in data.items() if not isinstance(value, Tensor)]
    if strange:
        raise UnreadableCheckpoint(f"{path} is no state dict; not tensors: {listed(strange)}")
    return _without_module(data)


def _without_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the "module." prefix of data-parallel training, if all names have it."""
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _reason(error: Exception) -> str:
    """Cause of an unpickling error, which torch puts after advice on loading unsafe files."""
    lines = [line.strip() for line in str(error).rpartition("WeightsUnpickler error:")[2].splitlines()]
    return next(filter(None, lines), type(error).__name__)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
