"""Reads the files of `torch.save`, the zip of today and the older container, without executing anything in them.

The description is read into records first; storages are read only for the tensors that are asked for.
"""

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from models import UnreadableCheckpoint, UnsafeCheckpoint
from models.tensor_records import StorageKey, StoredTensor, TensorReader

# Bytes of a description; that of a thousand tensors with its optimizer's state has a few million.
MAX_DESCRIPTION = 64 * 2**20
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ADVICE = (
    "Where you trust the file, keep its weights only:\n"
    "    checkpoint = torch.load(path, map_location='cpu', weights_only=False)\n"
    "    torch.save(checkpoint['model'], path)  # or its state_dict()"
)


@contextmanager
def faults_named(path: Path, kind: str) -> Iterator[None]:
    """Raise whatever a reader fails with as a CheckpointError that names the file: a damaged one can fail anywhere."""
    try:
        yield
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path} contains more than tensors and was not read: {error}. {_ADVICE}") from None
    except Exception as error:
        name = "" if isinstance(error, UnpicklingError | ValueError) else f"{type(error).__name__}: "
        raise UnreadableCheckpoint(f"{path} is damaged or no {kind}: {name}{error}") from error


class ZipArchive:
    """The zip of `torch.save` or TorchScript: its description and its storages."""

    def __init__(self, archive: zipfile.ZipFile, *, reader: TensorReader) -> None:
        self._archive = archive
        descriptions = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(descriptions) != 1:
            raise ValueError(f"it holds {len(descriptions)} files data.pkl, one is expected")
        self._folder = descriptions[0].removesuffix("data.pkl")
        if self._folder + "byteorder" in archive.namelist() and self._record("byteorder", 16) != b"little":
            raise ValueError("its numbers are big-endian")
        self.root = reader.read(bytes(self._record("data.pkl", MAX_DESCRIPTION)))
        self._left = os.path.getsize(archive.filename or "")  # records that overlap could add up to more

    def tensors(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read these tensors, of their stored dtype, on the CPU; tensors may share memory."""
        storages: dict[StorageKey, Tensor] = {}
        for stored in wanted.values():
            if stored.storage not in storages:
                data = self._record(f"data/{stored.storage.key}", self._left)
                self._left -= len(data)
                dtype = stored.storage.dtype
                storages[stored.storage] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return {name: stored.of(storages[stored.storage]) for name, stored in wanted.items()}

    def _record(self, name: str, limit: int) -> bytearray:
        info = self._archive.getinfo(self._folder + name)
        # Archives are written uncompressed; refusing others keeps a small file from expanding into a large one.
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{info.filename} is compressed")
        if info.file_size > limit:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, {limit} are expected at most")
        data = bytearray(info.file_size)
        with self._archive.open(info) as record:
            view, done = memoryview(data), 0
            while done < len(data) and (count := record.readinto(view[done : done + 2**24])):  # type: ignore[attr-defined]
                done += count
            if record.read(1) or done < len(data):
                raise ValueError(f"{info.filename} is cut short")
        return data


@dataclass(frozen=True)
class LegacyFile:
    """The container of PyTorch before 1.6: pickles one after the other, then the storages."""

    root: Any
    keys: tuple[str, ...]
    start: int

    @classmethod
    def of(cls, path: Path) -> "LegacyFile":
        """Read its description."""
        with path.open("rb") as file:
            head = io.BytesIO(file.read(MAX_DESCRIPTION))
        if TensorReader().read(head) != _LEGACY_MAGIC:
            raise ValueError("it does not begin as a file of torch.save")
        if TensorReader().read(head) != _LEGACY_PROTOCOL:
            raise ValueError("it is of another protocol")
        system = TensorReader().read(head)
        if not isinstance(system, dict) or not system.get("little_endian"):
            raise ValueError("its numbers are big-endian")
        root, keys = TensorReader().read(head), TensorReader().read(head)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("its list of storages is missing")
        return cls(root, tuple(keys), head.tell())

    def tensors(self, path: Path, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read these tensors, of their stored dtype, on the CPU; tensors may share memory."""
        dtypes = {stored.storage.key: stored.storage.dtype for stored in _stored_tensors(self.root)}
        storages: dict[StorageKey, Tensor] = {}
        needed = {stored.storage for stored in wanted.values()}
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(self.start)
            for key in self.keys:
                storage = StorageKey(dtypes.get(key, torch.uint8), key)
                (count,) = struct.unpack("<q", file.read(8))
                length = count * storage.dtype.itemsize
                if key not in dtypes or not 0 <= length <= size - file.tell():
                    raise ValueError(f"the storage {key[:40]!r} is cut short")
                if storage not in needed:
                    file.seek(length, os.SEEK_CUR)
                    continue
                data = bytearray(file.read(length))
                storages[storage] = (
                    torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
                )
        return {name: stored.of(storages[stored.storage]) for name, stored in wanted.items()}


def _stored_tensors(root: Any) -> Iterator[StoredTensor]:
    """Every tensor below `root`, once."""
    waiting, seen = [root], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, StoredTensor):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif hasattr(value, "arguments"):
            waiting += [value.arguments, value.state, value.items]
