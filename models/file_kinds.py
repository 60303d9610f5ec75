"""Kinds of files that are found in place of weights, by their first bytes: pointers, web pages, downloads cut short."""

import json
import struct
import zipfile
from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
# Kinds by what a file begins with; the first that fits is told.
_BEGINNINGS = (
    ((b"\x1f\x8b",), "a gzip file: unpack it first"),
    ((b"\xfd7zXZ\x00",), "an xz file: unpack it first"),
    ((b"BZh",), "a bzip2 file: unpack it first"),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z archive: unpack it first"),
    ((b"\x28\xb5\x2f\xfd",), "a zstd file: unpack it first"),
    ((b"Rar!",), "a RAR archive: unpack it first"),
    ((b"\x89HDF\r\n\x1a\n",), "an HDF5 file (Keras): weights of PyTorch or safetensors are expected"),
    ((b"GGUF", b"ggjt", b"ggml"), "a GGUF file: weights of PyTorch or safetensors are expected"),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF"), "a picture or document, not weights"),
)
_TEXT = frozenset(range(32, 127)) | {9, 10, 13} | frozenset(range(128, 256))


def other_kind(path: Path) -> str | None:
    """Words for what the file is instead of weights, and what to do; None where it may be weights."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return "an empty file: download it again"
    if not head.strip(b"\0"):
        return "a file of zeros, as an interrupted download leaves: download it again"
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the weights: run `git lfs pull` in its repository, or download the file itself"
    for beginnings, kind in _BEGINNINGS:
        if head.startswith(beginnings):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if head.startswith(b"PK") and not is_zip(path):
        return "cut short: the end of a zip is missing; download it again"
    return _kind_of_text(path, head) or _cut_safetensors(path, head)


def _kind_of_text(path: Path, head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page, not the weights: the download was answered with an error or a login; download it again"
    if start.startswith((b"<?xml", b"<error", b"<!doctype")):
        return "an XML document, not the weights: the download was answered with an error; download it again"
    if not set(head) <= _TEXT:
        return None
    if start.startswith((b"{", b"[")):
        return f"a JSON document, not the weights{_error_of_json(path)}"
    return f"a text, not weights; it begins with {head[:60].decode('utf-8', 'replace')!r}"


def _error_of_json(path: Path) -> str:
    if path.stat().st_size > 65536:
        return ""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return ""
    error = found.get("error") or found.get("message") if isinstance(found, dict) else None
    return f": it says {str(error)[:200]!r}" if isinstance(error, str) else ""


def is_zip(path: Path) -> bool:
    """True for a zip, also a damaged one, of which reading then says what is wrong."""
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # a damaged one fails in many ways
        return True


def is_safetensors(path: Path) -> bool:
    """True where the file begins as safetensors do: the length of a header, and its brace."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] <= 100_000_000


def _cut_safetensors(path: Path, head: bytes) -> str | None:
    """Words for safetensors that end before their last tensor."""
    if len(head) < 9 or head[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", head[:8])
    size = path.stat().st_size
    if length > 100_000_000:
        return None
    if 8 + length > size:
        return f"cut short: its header has {length} bytes, the file {size}; download it again"
    with path.open("rb") as file:
        file.seek(8)
        try:
            entries = json.loads(file.read(length)).values()
            end = (
                8 + length + max((entry["data_offsets"][1] for entry in entries if "data_offsets" in entry), default=0)
            )
        except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError):
            return None
    return f"cut short: {size} of {end} bytes are there; download it again" if size < end else None
