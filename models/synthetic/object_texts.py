"""Texts of the objects in generated pictures, which a CLIP learns to tell apart."""

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from models.synthetic.label_phrases import SENTENCE_TEMPLATES, PhraseSampler
from models.synthetic.sprites import NamedObject
from server.contract.text import SentenceTokenizer

SYNONYMS = 0.3  # probability that an object goes by a synonym's embedding, if it has one


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
