"""Files that an ONNX graph reads weights from besides its own, found without the package onnx.

ONNX Runtime opens them by itself, so a hash of the graph says nothing of them. The fields are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from server.contract.manifest import BundleError

# Kind of message -> number of a field -> kind of the message in it; all others are passed over.
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEY, _VALUE = 1, 2
_MAX_DEPTH = 100


def external_files(graph: Path) -> frozenset[str]:
    """Names of the files that the graph's tensors are in, as the graph writes them; BundleError where it is damaged."""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return frozenset(_locations(data, len(data)))
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{graph} is no ONNX graph: {error}") from error


def _locations(data: mmap.mmap, size: int) -> Iterator[str]:
    waiting = [("model", 0, size, 0)]
    while waiting:
        kind, position, end, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        key = value = b""
        while position < end:
            tag, position = _varint(data, position, end)
            field, wire = tag >> 3, tag & 7
            length = 0
            if wire == _VARINT:
                _, position = _varint(data, position, end)
            elif wire == _BYTES:
                length, position = _varint(data, position, end)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"byte {position} begins no field")
            if position + length > end:
                raise ValueError("it is cut short")
            if wire == _BYTES and field in _CHILDREN[kind]:
                waiting.append((_CHILDREN[kind][field], position, position + length, depth + 1))
            elif kind == "entry" and field in (_KEY, _VALUE):
                text = data[position : position + min(length, 4096)]
                key, value = (text, value) if field == _KEY else (key, text)
            position += length
        if key == b"location":
            yield value.decode("utf-8", "replace")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the least first, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it is cut short")
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("a number is too long")
