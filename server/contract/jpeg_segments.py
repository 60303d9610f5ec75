"""Segments of a JPEG (ITU-T T.81, annex B), and the file without what is no part of its picture."""

import re
from collections.abc import Callable, Iterator

SOS, EOI = 0xDA, 0xD9
_JFIF, _EXIF, _ADOBE, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_JFIF_BYTES, _ADOBE_BYTES = 14, 12  # as a decoder expects them, which knows the colours by them
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_ENTROPY_END = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers up to the end of the picture, each with the places where its segment begins and ends."""
    at, pattern = 2, _MARKER
    while found := pattern.search(data, at):
        marker, at, pattern = found[1][0], found.end(), _MARKER
        if marker == EOI:
            return
        if marker in _ALONE:
            continue
        end = at + max(int.from_bytes(data[at : at + 2]), 2)
        yield marker, at + 2, end
        at = end
        if marker == SOS:
            pattern = _ENTROPY_END


def picture(data: bytes, *, may_orient: Callable[[bytes], bool]) -> bytes:
    """The JPEG without comments and applications' segments, which Pillow refuses the file for where one is damaged.

    Kept are those that tell the colours, and EXIF and XMP of which `may_orient` is true.
    """
    parts, taken, view = [], 0, memoryview(data)
    for marker, start, end in segments(data):
        if marker == SOS:
            break
        if marker == _COMMENT or (marker in _APPLICATION and not _is_kept(marker, data[start:end], may_orient)):
            parts.append(view[taken : start - 4])  # up to its marker
            taken = end
    return b"".join([*parts, view[taken:]]) if parts else data


def _is_kept(marker: int, content: bytes, may_orient: Callable[[bytes], bool]) -> bool:
    if marker == _JFIF:
        return content.startswith(b"JFIF\0") and len(content) >= _JFIF_BYTES
    if marker == _ADOBE:
        return content.startswith(b"Adobe") and len(content) >= _ADOBE_BYTES
    return marker == _EXIF and may_orient(content)
