"""Lists written as one text, by one rule for forms, queries, JSON, the shell and Python.

An array, of JSON or of Python, is taken as it is. A text that begins with "[" is a JSON array. Any other text is split
at commas and line breaks where it names things (`labels`). A sentence may have commas of its own: where a text could be
one sentence or several, and where a name has another separator in it, `ListTextError` says how to write either.
"""

import json
import re
from collections.abc import Callable, Sequence

_BREAKS = re.compile(r"[,\n\r]")
# Marks that lists have elsewhere, and names hardly ever.
_OTHER_SEPARATORS = re.compile(r"[;|\t]|\.\s+\S")
_MAX_SHOWN = 4


class ListTextError(ValueError):
    """A text that is no list, or could be several; the message says how to write what may be meant."""


def split_names(text: str) -> list[str]:
    """Names in a text such as "dog, cat" or '["dog", "cat"]'; ListTextError where it may mean more of them."""
    if (array := _array(text)) is not None:
        return array
    names = [name for part in _BREAKS.split(text) if (name := part.strip())]
    for name in names:
        if _OTHER_SEPARATORS.search(name):
            several = [part.strip(" .") for part in re.split(r"[;|\t.]", name) if part.strip(" .")]
            raise ListTextError(f"{_either([name], several)}; names are separated by commas")
    return names


def split_sentences(texts: Sequence[str], *, is_one: Callable[[str], bool] = bool) -> list[str]:
    """Sentences in texts that are one each, or a JSON array; ListTextError for a lone one that may be several.

    It may be where each of its parts between commas could stand alone, by `is_one`.
    """
    sentences: list[str] = []
    for text in texts:
        array = _array(text)
        sentences += [text] if array is None else array
        parts = [part.strip() for part in _BREAKS.split(text)]
        if array is None and len(texts) == 1 and len(parts) > 1 and all(map(is_one, parts)):
            raise ListTextError(_either([text], parts))
    return sentences


def check_caption(caption: str) -> str:
    """The caption; ListTextError where it seems to list names by commas, since only full stops end a phrase."""
    parts = [part.strip() for part in caption.split(",") if part.strip()]
    if len(parts) > 1 and not re.search(r"[.?]", caption):
        phrases = " ".join(f"{part}." for part in parts[:_MAX_SHOWN])
        raise ListTextError(
            f"a phrase ends with a full stop, not with a comma: write {phrases!r} for {len(parts)} phrases, or end"
            " this one with a full stop"
        )
    return caption


def _array(text: str) -> list[str] | None:
    """The items of a text that is a JSON array of strings, None where it is none; ListTextError if it is damaged."""
    if not text.lstrip().startswith("["):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        words = [word.strip(" '\"") for word in text.strip(" []").split(",")]
        raise ListTextError(f'a text that begins with "[" must be a JSON array of strings, like {_shown(words)}')
    return items


def _either(one: Sequence[str], several: Sequence[str]) -> str:
    return f"this could be one or several: write {_shown(one)} for one, {_shown(several)} for {len(several)}"


def _shown(items: Sequence[str]) -> str:
    shown = [item if len(item) <= 60 else item[:59] + "…" for item in items[:_MAX_SHOWN]]
    return json.dumps(shown, ensure_ascii=False)[:-1] + ("]" if len(items) <= _MAX_SHOWN else ", …]")
