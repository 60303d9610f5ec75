"""Reads the tensors of a TorchScript archive (the container of OpenAI's files) without executing it.

The archive is a zip: `data.pkl` describes the modules, `data/` holds the storages, `code/` is ignored. The description
is unpickled with all names refused but the few below, which build inert records only.
"""

import io
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import UnreadableCheckpoint, UnsafeCheckpoint

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Limits for modules that contain one another, or themselves.
MAX_MODULES, MAX_NAME = 20_000, 1_000
LIST_BUILDERS = frozenset(
    {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"}
)


class _Module:
    """Inert record of a scripted module's attributes."""

    __slots__ = ("attributes",)

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str


@dataclass(frozen=True)
class _StoredTensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Builder:
    """Callable in place of a permitted name, which only makes a record; it has no state that a pickle could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a builder has no state")


def _stored_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _StoredTensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError(f"a tensor's storage is a {type(storage).__name__}")
    numbers = [offset, *shape, *stride]
    if any(type(number) is not int or number < 0 for number in numbers) or len(shape) != len(stride):
        raise pickle.UnpicklingError(f"a tensor has offset {offset!r}, shape {shape!r}, stride {stride!r}")
    return _StoredTensor(storage, offset, tuple(shape), tuple(stride))


class _Unpickler(pickle.Unpickler):
    """Rebuilds records; every name outside the list is refused before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _Builder(_stored_tensor)
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch" and name == "device":
            return _Builder(lambda *_: None)
        if (module, name) == ("collections", "OrderedDict"):
            return _Builder(dict)
        if module == "torch.jit._pickle" and name in LIST_BUILDERS:
            return _Builder(lambda value, *_: value)
        raise UnsafeCheckpoint(
            f"the archive refers to {module}.{name}, which is not part of a tensor; nothing was executed"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError(f"{pid!r} is no storage")
        return _Storage(pid[1], str(pid[2]))


def read_script_archive(path: Path) -> dict[str, Tensor]:
    """Read the archive's tensors by dotted attribute name, of their stored dtype, on the CPU."""
    try:
        with zipfile.ZipFile(path) as archive:
            description = next(
                name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")
            )
            root = _Unpickler(io.BytesIO(_record(archive, description))).load()
            records = _named_tensors(root)
            folder = description.removesuffix("data.pkl") + "data/"
            storages: dict[_Storage, Tensor] = {}
            for record in records.values():
                if record.storage not in storages:
                    storages[record.storage] = _storage(archive, folder, record.storage)
            return {name: _materialise(record, storages[record.storage]) for name, record in records.items()}
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise UnreadableCheckpoint(
            f"{path} is damaged or no TorchScript archive: {type(error).__name__}: {error}"
        ) from error


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    # Archives are written uncompressed; refusing others keeps a small file from expanding into a large one.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def _storage(archive: zipfile.ZipFile, folder: str, storage: _Storage) -> Tensor:
    data = bytearray(_record(archive, folder + storage.key))
    return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


def _named_tensors(root: Any) -> dict[str, _StoredTensor]:
    """Every tensor under `root` by its dotted path; a module reached twice has both names."""
    found: dict[str, _StoredTensor] = {}
    waiting: list[tuple[str, Any]] = [("", root)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        if len(prefix) > MAX_NAME:
            raise ValueError(f"a name of more than {MAX_NAME} letters: {prefix[:60]}...")
        attributes = getattr(module, "attributes", {})
        if not isinstance(module, _Module) or not isinstance(attributes, dict):
            raise ValueError(f"{prefix or 'the root'} is no module")
        for name, value in attributes.items():
            if isinstance(value, _StoredTensor):
                found[prefix + name] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    raise ValueError(f"more than {MAX_MODULES} modules")


def _materialise(record: _StoredTensor, storage: Tensor) -> Tensor:
    last = record.offset + sum((size - 1) * step for size, step in zip(record.shape, record.stride, strict=True))
    count = math.prod(list(record.shape))
    if count > storage.numel() or (count and last >= storage.numel()):
        raise ValueError(f"a tensor of shape {record.shape} reaches beyond its storage of {storage.numel()} values")
    value = storage.as_strided(record.shape, record.stride, record.offset)
    if value.is_contiguous() and count == storage.numel():
        return value
    return value.clone(memory_format=torch.contiguous_format)
