"""Reads safetensors files as views of the mapped file; the library's own NumPy reader copies, and lacks bfloat16."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from models.stored_arrays import BFLOAT16, Array, flat_view, mapped

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
# The limit of the format's own reader.
MAX_HEADER_BYTES = 100_000_000


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read the tensors of a file by name; ValueError where it is none, or a tensor is not inside it."""
    data = mapped(path)
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header of {length} bytes is longer than the file, or than any")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("its header is nested too deep") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    start = 8 + length
    return {name: _tensor(data, start, name, entry) for name, entry in header.items()}


def _tensor(data: Any, start: int, name: str, entry: Any) -> Array:
    try:
        dtype, shape, (begin, end) = DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"the entry of {name} is malformed") from None
    if dtype is None:
        raise ValueError(f"{name} is of type {entry['dtype']!r}; readable are {', '.join(DTYPES)}")
    if not whole or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has shape {shape} of {entry['dtype']}, but bytes {begin} to {end}")
    return flat_view(data, start + begin, end - begin, dtype).reshape(shape)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header repeats a name")
    return found
