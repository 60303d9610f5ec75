"""Reads checkpoint files and folders into named arrays, without PyTorch and without executing anything in them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import UnreadableCheckpoint, UnsafeCheckpoint, listed
from models.safetensors_file import read_safetensors
from models.stored_arrays import Array
from models.tensor_pickle import TensorRecord
from models.torch_files import read_torch_file

OPENSET_FORMAT = "openset"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class StoredWeights:
    """Contents of a checkpoint: tensors by stored name, its files, and the config.json and tokenizer beside them.

    The tensors are views of the mapped files, of their stored type.
    """

    tensors: dict[str, Array]
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
    """Read a checkpoint file or folder of any container; tensors keep their stored type (`models.stored_arrays`)."""
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return StoredWeights(_read_safetensors(path), (path,), *_beside(path.parent))
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
        tensors: dict[str, Array] = {}
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
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(data).__name__}, an object is expected")
    return data


def _read_safetensors(path: Path) -> dict[str, Array]:
    try:
        return read_safetensors(path)
    except (ValueError, OSError) as error:
        raise UnreadableCheckpoint(f"{path} is damaged or no safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Array]:
    return _without_module(read_torch_file(path, _state_dict))


def _state_dict(data: Any) -> dict[str, TensorRecord]:
    """The tensors of a saved state dict, or of {"model": state dict} (IDEA-Research)."""
    if isinstance(data, dict) and isinstance(data.get("model"), dict):
        data = data["model"]
    if not isinstance(data, dict) or not data:
        kind = type(data).__name__
        raise UnreadableCheckpoint(f"holds a {kind}; a state dict or {{'model': state dict}} is expected")
    strange = [
        f"{name} ({type(value).__name__})" for name, value in data.items() if not isinstance(value, TensorRecord)
    ]
    if strange:
        raise UnreadableCheckpoint(f"is no state dict; not tensors: {listed(strange)}")
    return {str(name): value for name, value in data.items()}


def _without_module(tensors: dict[str, Array]) -> dict[str, Array]:
    """Strip the "module." prefix of data-parallel training, if all names have it."""
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
