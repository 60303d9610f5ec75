"""Names of objects: random texts, of label, synonym, keyword or plural in a template, and embeddings."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.synthetic.sprites import NamedObject
from server.contract.text import SentenceTokenizer

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
SYNONYMS = 0.3  # probability that an object goes by a synonym's embedding, if it has one
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


class NameEmbeddings:
    """Unit-length vectors of every name of each object, of a distillation's texts; ValueError if a label has none."""

    def __init__(self, embeddings: Mapping[str, Tensor], objects: tuple[NamedObject, ...]) -> None:
        if missing := [item.label for item in objects if item.label not in embeddings]:
            raise ValueError(f"the distilled words have no embedding of {missing[:5]}: distil them with the same names")
        names = [(item.label, *item.synonyms) for item in objects]
        self._options = [torch.stack([embeddings[name] for name in row if name in embeddings]) for row in names]
        self.labels = torch.stack([options[0] for options in self._options])  # [N, D]

    def sample(self, rng: random.Random) -> Tensor:
        """Choose an embedding of each object [N, D]: mostly its label's, else a synonym's."""
        rows = [int(rng.random() < SYNONYMS) * rng.randrange(len(options)) for options in self._options]
        return torch.stack([options[row] for options, row in zip(self._options, rows, strict=True)])


class ObjectTexts:
    """Sentences about each object, or embeddings that are known from a distillation.

    `labels`: the ids [N, T] of the objects' labels.
    """

    def __init__(
        self, objects: tuple[NamedObject, ...], tokenizer: SentenceTokenizer, embeddings: Mapping[str, Tensor] | None
    ) -> None:
        self._objects, self._tokenizer = objects, tokenizer
        self._known = None if embeddings is None else NameEmbeddings(embeddings, objects)
        self.labels = torch.from_numpy(tokenizer.encode([item.label for item in objects]))

    def embeddings(self, rng: random.Random) -> Tensor | None:
        """Choose an embedding of each object [N, D]; None if they are not known."""
        return None if self._known is None else self._known.sample(rng)

    def input_ids(self, rng: random.Random) -> Tensor:
        """Choose a sentence about each object, as ids [N, T]."""
        phrases = PhraseSampler(SENTENCE_TEMPLATES, rng=rng)
        return torch.from_numpy(self._tokenizer.encode([phrases.text(item) for item in self._objects]))
