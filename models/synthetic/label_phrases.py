"""What objects are called: labels, synonyms, keywords and plurals, alone or in a sentence."""

import random
from collections.abc import Sequence

from models.synthetic.sprites import NamedObject

SENTENCES = (
    "{}",
    "a {}",
    "a photo of a {}.",
    "a picture of a {}",
    "the {}",
    "one {}",
    "this is a {}.",
    "an image of a {}",
    "a drawing of the {}",
    "a small {} in the picture",
    "there is a {} here",
    "a photo of the large {}.",
)
PHRASES = ("{}", "a {}", "the {}")
PLAIN = 0.4  # how often the first template is taken, which is the bare word


class PhraseSampler:
    """Draws a text for an object; the same dice give the same texts."""

    def __init__(
        self,
        templates: Sequence[str],
        *,
        rng: random.Random,
        synonyms: float = 0.2,
        keywords: float = 0.1,
        plurals: float = 0.06,
    ) -> None:
        self._templates = tuple(templates)
        self._chances = (synonyms, keywords, plurals)
        self._rng = rng

    def text(self, item: NamedObject) -> str:
        """The object's label or, by the chances given, a synonym, a keyword or its plural, in a template."""
        if self._rng.random() < self._chances[2]:
            return plural(item.label)
        word = self.word(item)
        template = self._templates[0] if self._rng.random() < PLAIN else self._rng.choice(self._templates)
        return template.format(word)

    def word(self, item: NamedObject) -> str:
        """The object's label or, by the chances given, a synonym or a keyword."""
        synonyms, keywords, _ = self._chances
        roll = self._rng.random()
        if item.synonyms and roll < synonyms:
            return self._rng.choice(item.synonyms)
        if item.keywords and synonyms <= roll < synonyms + keywords:
            return self._rng.choice(item.keywords)
        return item.label


def plural(word: str) -> str:
    """The regular plural; a word that ends like one stays as it is."""
    if word.endswith(("ss", "x", "ch", "sh")):
        return word + "es"
    return word if word.endswith("s") else word + "s"


def vocabulary_texts(objects: Sequence[NamedObject]) -> list[str]:
    """Every text whose words a vocabulary for `objects` should hold."""
    names = [text for item in objects for text in (item.label, *item.synonyms, *item.keywords)]
    return [*names, *SENTENCES, *PHRASES]
