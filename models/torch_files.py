"""Reads the files of PyTorch without PyTorch, as views of the mapped file: nothing in them is executed.

Containers: a zip of `torch.save`, `data.pkl` and storages in `data/`; the same with `constants.pkl` and `code/`, which
is ignored, of TorchScript (OpenAI's files); and a row of pickles followed by the storages, of PyTorch before 1.6.
"""

import io
import mmap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models import UnreadableCheckpoint, UnsafeCheckpoint
from models.stored_arrays import Array, flat_view, mapped
from models.tensor_pickle import ObjectRecord, StorageRecord, TensorRecord, load_pickle

# Limits for modules that contain one another, or themselves.
MAX_MODULES, MAX_NAME = 20_000, 1_000
# Descriptions of the published checkpoints have less than a megabyte.
MAX_PICKLE_BYTES = 32 * 2**20
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER_BYTES = 30


StateDict = Mapping[str, TensorRecord]


def read_torch_file(path: Path, choose: Callable[[Any], StateDict]) -> dict[str, Array]:
    """Read the tensors of a file of `torch.save`, or of TorchScript, by name.

    choose: takes the saved value, objects in it as `models.tensor_pickle.ObjectRecord`, and returns its state dict.
    UnsafeCheckpoint where the file refers to more than tensors, UnreadableCheckpoint where it cannot be read.
    """
    try:
        return _read_zip(path, choose) if zipfile.is_zipfile(path) else _read_legacy(path, choose)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path} contains more than tensors and was not read: {error}") from None
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path} {error}") from None
    except (ValueError, OSError, EOFError, LookupError, zipfile.BadZipFile) as error:
        raise UnreadableCheckpoint(f"{path} is damaged or no checkpoint: {error or type(error).__name__}") from error


def _read_zip(path: Path, choose: Callable[[Any], StateDict]) -> dict[str, Array]:
    data = mapped(path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    description = next((name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if description is None:
        raise ValueError("a zip without data.pkl")
    folder = description.removesuffix("data.pkl")
    if (order := entries.get(f"{folder}byteorder")) and bytes(_content(data, order)) != b"little":
        raise ValueError("its numbers are in big-endian order")
    pickled = _content(data, entries[description])
    _check_length(len(pickled))
    value = load_pickle(io.BytesIO(pickled))
    records = _named_tensors(value) if f"{folder}constants.pkl" in entries else choose(value)
    storages: dict[StorageRecord, Array] = {}
    for storage in (record.storage for record in records.values()):
        if storage not in storages:
            entry = entries[f"{folder}data/{storage.key}"]
            storages[storage] = flat_view(data, _start(data, entry), len(_content(data, entry)), storage.dtype)
    return {name: record.of(storages[record.storage]) for name, record in records.items()}


def _read_legacy(path: Path, choose: Callable[[Any], StateDict]) -> dict[str, Array]:
    data = mapped(path)
    if load_pickle(data) != LEGACY_MAGIC or load_pickle(data) != LEGACY_PROTOCOL:
        raise ValueError("it is neither a zip nor PyTorch's older container")
    system = load_pickle(data)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are in big-endian order")
    described: dict[str, StorageRecord] = {}
    records = choose(load_pickle(data, described))
    keys = load_pickle(data)
    _check_length(data.tell())
    position, storages = data.tell(), dict[str, Array]()
    for key in keys:
        storage, count = described[key], int.from_bytes(data[position : position + 8], "little")
        if storage.count != count:
            raise ValueError(f"the storage {key} has {count} values, its description says {storage.count}")
        storages[key] = flat_view(data, position + 8, count * storage.dtype.itemsize, storage.dtype)
        position += 8 + storages[key].nbytes
    return {name: record.of(storages[record.storage.key]) for name, record in records.items()}


def _check_length(nbytes: int) -> None:
    if nbytes > MAX_PICKLE_BYTES:
        raise ValueError(f"its description has {nbytes} bytes, at most {MAX_PICKLE_BYTES} are read")


def _start(data: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Position of an entry's content; its local header may differ from that in the directory."""
    header = data[entry.header_offset : entry.header_offset + _LOCAL_HEADER_BYTES]
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise ValueError(f"the zip has no {entry.filename} where its directory says")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return entry.header_offset + _LOCAL_HEADER_BYTES + name + extra


def _content(data: mmap.mmap, entry: zipfile.ZipInfo) -> memoryview:
    """Content of an entry, its checksum compared."""
    # Archives are written uncompressed; refusing others keeps a small file from expanding into a large one.
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename} is compressed")
    start = _start(data, entry)
    if start + entry.file_size > len(data):
        raise ValueError(f"{entry.filename} reaches beyond the file")
    content = memoryview(data)[start : start + entry.file_size]
    # PyTorch writes 0 where it was told to compute none.
    if entry.CRC and zlib.crc32(content) != entry.CRC:
        raise ValueError(f"the CRC-32 of {entry.filename} is not that of its content")
    return content


def _named_tensors(root: Any) -> dict[str, TensorRecord]:
    """Every tensor under the root module of a script, by its dotted path; a module reached twice has both names."""
    found: dict[str, TensorRecord] = {}
    waiting: list[tuple[str, Any]] = [("", root)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        if len(prefix) > MAX_NAME:
            raise ValueError(f"a name of more than {MAX_NAME} letters: {prefix[:60]}...")
        if not isinstance(module, ObjectRecord) or not isinstance(module.attributes, dict):
            raise ValueError(f"{prefix or 'the root'} is no module")
        for name, value in module.attributes.items():
            if isinstance(value, TensorRecord):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, ObjectRecord):
                waiting.append((f"{prefix}{name}.", value))
    raise ValueError(f"more than {MAX_MODULES} modules")
