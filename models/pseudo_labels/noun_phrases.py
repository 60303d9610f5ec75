"""The noun phrases of an English caption, by part-of-speech tags.

GLIP takes them from an NLP parser (Li et al. 2022, section 3.3) whose models are downloads; HanTa's lie in its package.
A phrase is a run of adjectives, numbers, names and nouns that ends with a noun, without its article or possessive.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

# The tags are those of the British National Corpus (C5), which HanTa's English model was trained on.
NOUNS = ("NN0", "NN1", "NN2", "NP0")
BEFORE_NOUNS = (*NOUNS, "AJ0", "AJC", "AJS", "CRD", "ORD")
MODEL = "morphmodel_en.pgz"
# Words that name the picture or a place in it, and nothing that could be boxed.
PICTURE = {"photo", "photograph", "picture", "image", "drawing", "painting", "illustration", "view", "shot", "scene"}
PLACE = {"background", "foreground", "front", "back", "top", "bottom", "left", "right", "side", "middle", "center"}
NOT_THINGS = (
    PICTURE | PLACE | {"centre", "number", "lot", "group", "pair", "kind", "type", "way", "day", "night", "time"}
)
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
_POSSESSIVE = re.compile(r"['’]s?$")


@dataclass(frozen=True)
class NounPhrase:
    """A phrase and its characters [start, end) in the caption."""

    text: str
    start: int
    end: int


class _Word(NamedTuple):
    start: int
    end: int
    tag: str


def noun_phrases(caption: str) -> tuple[NounPhrase, ...]:
    """The noun phrases of a caption, in their order; a phrase that occurs twice is there twice."""
    found: list[NounPhrase] = []
    run: list[_Word] = []
    for word in (*_tagged(caption), _Word(len(caption), len(caption), "")):
        if word.tag in BEFORE_NOUNS:
            run.append(word)
            continue
        if (phrase := _phrase(caption, run)) is not None:
            found.append(phrase)
        run = []
    return tuple(found)


def _phrase(caption: str, run: Sequence[_Word]) -> NounPhrase | None:
    """The part of a run up to its last noun, if what that names can be boxed."""
    last = max((place for place, word in enumerate(run) if word.tag in NOUNS), default=-1)
    if last < 0 or caption[run[last].start : run[last].end].lower() in NOT_THINGS:
        return None
    start, end = run[0].start, run[last].end
    return NounPhrase(caption[start:end], start, end)


def _tagged(caption: str) -> list[_Word]:
    """The words and signs of a caption with their tags; a possessive ends what stands before it."""
    places = [match.span() for match in _WORD.finditer(caption)]
    words = [caption[start:end] for start, end in places]
    if not words:
        return []
    tags = [tag for _, _, tag in _tagger().tag_sent(words)]
    return [
        _Word(start, end, "POS" if _POSSESSIVE.search(word) else tag if word[0].isalnum() else "PUN")
        for (start, end), word, tag in zip(places, words, tags, strict=True)
    ]


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger  # half a second, which only those who need it should wait

    return HanoverTagger(MODEL)
