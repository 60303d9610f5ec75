"""Noun phrases of an English caption, by part-of-speech tags.

GLIP uses an NLP parser (Li et al. 2022, section 3.3) whose models must be downloaded; HanTa's come with its package. A
phrase is a run of adjectives, numbers, names and nouns that ends with a noun, without its article or possessive.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

# Tags of the British National Corpus (C5), which HanTa's English model was trained on.
NOUNS = ("NN0", "NN1", "NN2", "NP0")
PHRASE_TAGS = (*NOUNS, "AJ0", "AJC", "AJS", "CRD", "ORD")
MODEL = "morphmodel_en.pgz"
# Nouns that name the image, a location in it or something abstract, and cannot be boxed.
EXCLUDED_NOUNS = {
    "photo", "photograph", "picture", "image", "drawing", "painting", "illustration", "view", "shot", "scene",
    "background", "foreground", "front", "back", "top", "bottom", "left", "right", "side", "middle", "center", "centre",
    "number", "lot", "group", "pair", "kind", "type", "way", "day", "night", "time",
}  # fmt: skip
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
_POSSESSIVE = re.compile(r"['’]s?$")


@dataclass(frozen=True)
class NounPhrase:
    """A phrase and its character span [start, end) in the caption."""

    text: str
    start: int
    end: int


class _Word(NamedTuple):
    start: int
    end: int
    tag: str


def noun_phrases(caption: str) -> tuple[NounPhrase, ...]:
    """All noun phrases of a caption, in order; a repeated phrase occurs repeatedly."""
    found: list[NounPhrase] = []
    run: list[_Word] = []
    for word in (*_tagged(caption), _Word(len(caption), len(caption), "")):
        if word.tag in PHRASE_TAGS:
            run.append(word)
            continue
        if (phrase := _phrase(caption, run)) is not None:
            found.append(phrase)
        run = []
    return tuple(found)


def _phrase(caption: str, run: Sequence[_Word]) -> NounPhrase | None:
    """A run up to its last noun, unless that is an excluded one."""
    last = max((index for index, word in enumerate(run) if word.tag in NOUNS), default=-1)
    if last < 0 or caption[run[last].start : run[last].end].lower() in EXCLUDED_NOUNS:
        return None
    start, end = run[0].start, run[last].end
    return NounPhrase(caption[start:end], start, end)


def _tagged(caption: str) -> list[_Word]:
    """Words and punctuation of a caption with their tags; a possessive gets the tag POS, which ends a phrase."""
    spans = [match.span() for match in _WORD.finditer(caption)]
    words = [caption[start:end] for start, end in spans]
    if not words:
        return []
    tags = [tag for _, _, tag in _tagger().tag_sent(words)]
    return [
        _Word(start, end, "POS" if _POSSESSIVE.search(word) else tag if word[0].isalnum() else "PUN")
        for (start, end), word, tag in zip(spans, words, tags, strict=True)
    ]


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger  # imported late, as it takes half a second

    return HanoverTagger(MODEL)
