"""Licence of a checkpoint, read from its model card, its configuration or its licence file; never assumed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.contract.regular_files import open_regular

UNKNOWN = "unknown"
_CARDS = ("README.md", "README.MD", "readme.md", "MODEL_CARD.md")
_LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt", "COPYING")
_MAX_READ, _MAX_NAME = 256 * 1024, 100
# The hub's identifiers as SPDX writes them.
_SPDX = {
    "mit": "MIT", "apache-2.0": "Apache-2.0", "bsd": "BSD", "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause", "cc0-1.0": "CC0-1.0", "unlicense": "Unlicense", "isc": "ISC", "zlib": "Zlib",
}  # fmt: skip
_UPPER = re.compile(r"(cc-by|gpl|agpl|lgpl|mpl|epl|ofl|afl|artistic|bsl|ecl|eupl|ncsa|odbl|osl)\b.*")
# Sentences of licence files, each with the licence that has it; the first that is found counts.
_TEXTS = (
    ("apache license version 2.0", "Apache-2.0"),
    ("gnu affero general public license version 3", "AGPL-3.0"),
    ("gnu general public license version 3", "GPL-3.0"),
    ("mozilla public license version 2.0", "MPL-2.0"),
    ("permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
    ("neither the name of the copyright holder nor", "BSD-3-Clause"),
    ("redistribution and use in source and binary forms", "BSD-2-Clause"),
)


def licence_of(folder: Path, config: Mapping[str, Any] | None = None) -> str | None:
    """The licence that the files in a folder tell, by its SPDX name where it has one; None where none tells it."""
    for name in _CARDS:
        if licence := _of_card(_text(folder / name)):
            return licence
    stated = (config or {}).get("license") or (config or {}).get("licence")
    if isinstance(stated, str) and stated.strip():
        return spdx_name(stated)
    for name in _LICENCE_FILES:
        if text := " ".join(_text(folder / name).lower().split()):
            words = text.replace("license, version", "license version")
            return next((licence for sentence, licence in _TEXTS if sentence in words), f"see {name}")
    return None


def spdx_name(text: str) -> str:
    """A licence's name as SPDX writes it, where it is known."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_MAX_NAME]
    lower = plain.lower()
    return _SPDX.get(lower) or (lower.upper() if _UPPER.fullmatch(lower) else plain)


def _of_card(text: str) -> str | None:
    """The licence in the head of a model card, which is YAML between two lines of dashes."""
    head = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if not head:
        return None
    entries = {name: _entry(head[1], name) for name in ("license", "license_name")}
    licence = entries["license"]
    if licence and licence.lower() == "other":
        return entries["license_name"] or "other"
    return spdx_name(licence) if licence else None


def _entry(head: str, name: str) -> str | None:
    """The value of a line `name: value`, or the items of the list below it."""
    found = re.search(rf"^{name}:[ \t]*(.*)$((?:\r?\n[ \t]*- .*$)*)", head, re.MULTILINE)
    if not found:
        return None
    inline = found[1].partition(" #")[0].strip().strip("[]")
    items = [inline] if inline else re.findall(r"- (.*)", found[2])
    values = [item.strip().strip("'\"") for part in items for item in part.split(",")]
    return " or ".join(spdx_name(value) for value in values if value) or None


def _text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(_MAX_READ).decode("utf-8", "replace")
    except OSError:
        return ""
