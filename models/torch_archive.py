"""Reads the files of `torch.save`, the zip of today and the older container, without executing anything in them.

The description is read into records first; tensors are views of the mapped file.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from models import UnreadableCheckpoint, UnsafeCheckpoint
from models.stored_arrays import Array, flat_view, mapped
from models.tensor_records import StorageKey, StoredTensor, TensorReader

# Bytes of a description; that of a thousand tensors with its optimizer's state has a few million.
MAX_DESCRIPTION = 64 * 2**20
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER_BYTES = 30
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
        self._archive, self._data = archive, mapped(Path(archive.filename or ""))
        descriptions = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(descriptions) != 1:
            raise ValueError(f"it holds {len(descriptions)} files data.pkl, one is expected")
        self._folder = descriptions[0].removesuffix("data.pkl")
        if self._folder + "byteorder" in archive.namelist() and self._record("byteorder", 16) != b"little":
            raise ValueError("its numbers are big-endian")
        self.root = reader.read(self._record("data.pkl", MAX_DESCRIPTION))

    def tensors(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Array]:
        """Views of these tensors in the mapped file, of their stored type; tensors may share memory."""
        storages: dict[StorageKey, Array] = {}
        for storage in (stored.storage for stored in wanted.values()):
            if storage not in storages:
                start, length = self._place(f"data/{storage.key}", len(self._data))
                storages[storage] = flat_view(self._data, start, length, storage.dtype)
        return {name: stored.of(storages[stored.storage]) for name, stored in wanted.items()}

    def _record(self, name: str, limit: int) -> bytes:
        start, length = self._place(name, limit)
        return self._data[start : start + length]

    def _place(self, name: str, limit: int) -> tuple[int, int]:
        """Start and length of an entry's content in the file, its checksum compared."""
        info = self._archive.getinfo(self._folder + name)
        # Archives are written uncompressed; refusing others keeps a small file from expanding into a large one.
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{info.filename} is compressed")
        if info.file_size > limit:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, {limit} are expected at most")
        header = self._data[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
        if len(header) < _LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
            raise ValueError(f"{info.filename} is not where the zip's directory says")
        # Their lengths may differ from those in the directory.
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_length + extra_length
        if start + info.file_size > len(self._data):
            raise ValueError(f"{info.filename} is cut short")
        content = memoryview(self._data)[start : start + info.file_size]
        # PyTorch writes 0 where it was told to compute none (`torch.serialization.set_crc32_options`).
        if info.CRC and zlib.crc32(content) != info.CRC:
            raise ValueError(f"{info.filename} is damaged: its CRC-32 is another")
        return start, info.file_size


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

    def tensors(self, path: Path, wanted: Mapping[str, StoredTensor]) -> dict[str, Array]:
        """Views of these tensors in the mapped file, of their stored type; tensors may share memory."""
        dtypes = {stored.storage.key: stored.storage.dtype for stored in _stored_tensors(self.root)}
        storages: dict[StorageKey, Array] = {}
        data, position = mapped(path), self.start
        for key in self.keys:
            count = int.from_bytes(data[position : position + 8], "little")
            length = count * (dtypes[key].itemsize if key in dtypes else 1)
            if key not in dtypes or position + 8 + length > len(data):
                raise ValueError(f"the storage {key[:40]!r} is cut short")
            storages[StorageKey(dtypes[key], key)] = flat_view(data, position + 8, length, dtypes[key])
            position += 8 + length
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
