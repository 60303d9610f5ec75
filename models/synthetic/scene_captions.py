"""Captions of scenes: what is there, how many, in which colour and where."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from models.synthetic.label_phrases import plural
from models.synthetic.scene_prompts import SceneContents, by_place
from models.synthetic.scenes import COLOUR_WORDS
from models.synthetic.sprites import NamedObject

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACED = 0.4  # how often a caption says where something is


@dataclass(frozen=True)
class CaptionPhrase:
    """The characters [start, end) of a caption, and the rows of the picture's objects that they speak of."""

    start: int
    end: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Caption:
    """A sentence and its noun phrases."""

    text: str
    phrases: tuple[CaptionPhrase, ...]


def caption(shown: SceneContents, objects: Sequence[NamedObject], rng: random.Random) -> Caption:
    """A sentence that names everything in a picture once, in random order."""
    order = list(dict.fromkeys(shown.objects))
    rng.shuffle(order)
    text, phrases = "", []
    for place, index in enumerate(order):
        text += "" if place == 0 else " and " if place == len(order) - 1 else ", "
        rows = tuple(row for row, other in enumerate(shown.objects) if other == index)
        phrase = _phrase(objects[index].label, rows, shown, rng)
        phrases.append(CaptionPhrase(len(text), len(text) + len(phrase), rows))
        text += phrase
    return Caption(text, tuple(phrases))


def with_article(words: str) -> str:
    """ "an" before a vowel, "a" before anything else."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def recoloured(phrase: str, rng: random.Random) -> str | None:
    """The phrase with another colour in it, or None where it names none."""
    words = phrase.split()
    places = [place for place, word in enumerate(words) if word in COLOUR_WORDS]
    if not places:
        return None
    words[places[0]] = rng.choice([colour for colour in COLOUR_WORDS if colour != words[places[0]]])
    return " ".join(words)


def _phrase(label: str, rows: tuple[int, ...], shown: SceneContents, rng: random.Random) -> str:
    colours = {shown.colours[row] for row in rows}
    coloured = f"{COLOUR_WORDS[min(colours)]} {label}" if len(colours) == 1 and min(colours) >= 0 else label
    words = f"{NUMBERS[len(rows)]} {plural(coloured)}" if len(rows) > 1 else with_article(coloured)
    places = [place for place, found in by_place(rows, shown) if found == rows]
    if places and rng.random() < PLACED:
        words += rng.choice(places).removeprefix("the {}")
    return words
