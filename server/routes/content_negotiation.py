"""Content negotiation: the media type of a response, by the request's Accept header (RFC 9110, 12.5.1)."""

from collections.abc import Sequence

from server.contract.text import shown
from server.errors import NotAcceptable


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The media type of `offered` with the highest quality; NotAcceptable if none is accepted.

    Between equals the type that is named more exactly wins, then the one offered first.
    """
    qualities: dict[str, float] = {}
    for part in (accept or "*/*").lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        qualities[media_range] = max(_quality(parameters), qualities.get(media_range, 0.0))

    def rank(media_type: str) -> tuple[float, int]:
        ranges = ("*/*", media_type.partition("/")[0] + "/*", media_type)
        exactness = max((place for place, name in enumerate(ranges) if name in qualities), default=0)
        return qualities.get(ranges[exactness], 0.0), exactness

    best = max(offered, key=rank)
    if rank(best)[0] <= 0:
        raise NotAcceptable(f"Accept {shown(accept or '')} matches none of {', '.join(offered)}")
    return best


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0
