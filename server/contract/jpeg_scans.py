"""Scans of a JPEG: whether each refines what the file announces to the end (ITU-T T.81, annex B and G)."""

from server.contract.jpeg_segments import SOS, segments

_SOF = range(0xC0, 0xD0)
_NO_SOF = (0xC4, 0xC8, 0xCC)  # tables, and a reserved one


def has_all_scans(data: bytes) -> bool:
    """True where every coefficient of every component is in some scan, to its last bit; its rows may still be cut."""
    missing: set[tuple[int, int]] | None = None
    for marker, start, end in segments(data):
        segment = data[start:end]
        if marker in _SOF and marker not in _NO_SOF and len(segment) >= 6:
            components = segment[6 : 6 + 3 * segment[5] : 3]
            missing = {(component, index) for component in components for index in range(64)}
        elif marker == SOS and missing is not None and segment and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            if not bits & 15:  # the low bit, after which nothing is left to refine
                components = segment[1 : 1 + 2 * segment[0] : 2]
                missing -= {(component, index) for component in components for index in range(first, last + 1)}
    return missing is not None and not missing
