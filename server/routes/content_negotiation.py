"""Which media type to answer with."""

from collections.abc import Sequence

from server.contract.text import shown
from server.errors import NotAcceptable


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The best of the `offered` types for an `Accept` header (RFC 9110, 12.5.1); NotAcceptable where none fits.

    Of equally welcome types the one named more exactly wins, then the one offered first.
    """
    ranges = [_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    ranked = [(_rank(media_type, ranges), media_type) for media_type in offered]
    (quality, _), best = max(ranked, key=lambda entry: entry[0])
    if quality <= 0:
        raise NotAcceptable(f"Accept {shown(accept or '')} asks for none of {', '.join(offered)}")
    return best


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return media_range, _quality(value.strip())
    return media_range, 1.0


def _quality(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        return 0.0
    return number if 0 <= number <= 1 else 0.0


def _rank(media_type: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """(quality, exactness) of the range that names the type most exactly."""
    patterns = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    for exactness, pattern in zip((2, 1, 0), patterns, strict=True):
        qualities = [quality for media_range, quality in ranges if media_range == pattern]
        if qualities:
            return max(qualities), exactness
    return 0.0, 0
