"""Random names of an object: label, synonym, keyword or plural, in a prompt template."""

import random
from collections.abc import Sequence

from models.synthetic.sprites import NamedObject

SENTENCE_TEMPLATES = (
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
PHRASE_TEMPLATES = ("{}", "a {}", "the {}")
BARE_SHARE = 0.4  # of texts use the first template, the bare word


class PhraseSampler:
    """Samples names of objects; `synonyms`, `keywords` and `plurals` are probabilities."""

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
        self._probabilities = (synonyms, keywords, plurals)
        self._rng = rng

    def text(self, item: NamedObject) -> str:
        """A name of the object in a template, or its plural alone."""
        if self._rng.random() < self._probabilities[2]:
            return plural(item.label)
        word = self.word(item)
        template = self._templates[0] if self._rng.random() < BARE_SHARE else self._rng.choice(self._templates)
        return template.format(word)

    def word(self, item: NamedObject) -> str:
        """A name of the object: its label, a synonym or a keyword."""
        synonyms, keywords, _ = self._probabilities
        draw = self._rng.random()
        if item.synonyms and draw < synonyms:
            return self._rng.choice(item.synonyms)
        if item.keywords and synonyms <= draw < synonyms + keywords:
            return self._rng.choice(item.keywords)
        return item.label


def plural(word: str) -> str:
    """The regular plural; a word that ends in a single s stays unchanged."""
    if word.endswith(("ss", "x", "ch", "sh")):
        return word + "es"
    return word if word.endswith("s") else word + "s"


def vocabulary_texts(objects: Sequence[NamedObject]) -> list[str]:
    """Texts whose words a vocabulary for `objects` should hold: names and templates."""
    names = [text for item in objects for text in (item.label, *item.synonyms, *item.keywords)]
    return [*names, *SENTENCE_TEMPLATES, *PHRASE_TEMPLATES]
