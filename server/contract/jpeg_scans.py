"""Scans of a JPEG: whether each refines what the file announces to the end (ITU-T T.81, annex B and G)."""

import re
from collections.abc import Iterator

_SOF = range(0xC0, 0xD0)
_NO_SOF = (0xC4, 0xC8, 0xCC)  # tables, and a reserved one
_SOS, _EOI = 0xDA, 0xD9
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_ENTROPY_END = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def has_all_scans(data: bytes) -> bool:
    """True where every coefficient of every component is in some scan, to its last bit; its rows may still be cut."""
    missing: set[tuple[int, int]] | None = None
    for marker, segment in _segments(data):
        if marker in _SOF and marker not in _NO_SOF and len(segment) >= 6:
            components = segment[6 : 6 + 3 * segment[5] : 3]
            missing = {(component, index) for component in components for index in range(64)}
        elif marker == _SOS and missing is not None and segment and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            if not bits & 15:  # the low bit, after which nothing is left to refine
                components = segment[1 : 1 + 2 * segment[0] : 2]
                missing -= {(component, index) for component in components for index in range(first, last + 1)}
    return missing is not None and not missing


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, pattern = 2, _MARKER
    while found := pattern.search(data, at):
        marker, at, pattern = found[1][0], found.end(), _MARKER
        if marker == _EOI:
            return
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2])
        yield marker, data[at + 2 : at + length]
        at += max(length, 2)
        if marker == _SOS:
            pattern = _ENTROPY_END
