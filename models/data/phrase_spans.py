"""Where a phrase stands in its caption."""

import re
from typing import Any

from models.data.images import DataError


def checked_spans(spans: Any, caption: str, where: str) -> tuple[tuple[int, int], ...]:
    """Character spans [start, end) that lie in `caption`; DataError names the record where they do not."""
    try:
        pairs = tuple((int(start), int(end)) for start, end in spans)
    except (TypeError, ValueError):
        raise DataError(f"{where}: tokens_positive is {spans!r}; a list of [start, end) is expected") from None
    if not pairs:
        raise DataError(f"{where}: tokens_positive is empty")
    for start, end in pairs:
        if not 0 <= start < end <= len(caption):
            raise DataError(f"{where}: tokens_positive has [{start}, {end}), the caption has {len(caption)} characters")
    return pairs


def found_spans(phrase: str, caption: str, where: str) -> tuple[tuple[int, int], ...]:
    """The first place in `caption` where `phrase` stands as whole words, in any case; DataError where there is none."""
    match = re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", caption, re.IGNORECASE)
    if match is None or not phrase.strip():
        raise DataError(f"{where}: the phrase {phrase!r} does not stand in the caption {caption!r}")
    return ((match.start(), match.end()),)
