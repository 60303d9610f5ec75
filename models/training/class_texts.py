"""Texts for the classes of folders of pictures, in training a CLIP."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from server.contract.text import SentenceTokenizer


class TemplateTexts:
    """Names of classes in the templates that the model is served with, one drawn at each step.

    `labels`: the ids [N, T] of the names in the first template.
    """

    def __init__(self, names: Sequence[str], templates: Sequence[str], tokenizer: SentenceTokenizer) -> None:
        self._names, self._templates, self._tokenizer = names, templates, tokenizer
        self.labels = self._ids(templates[0])

    def embeddings(self, rng: random.Random) -> Tensor | None:
        """Return None: no embedding is known before training."""
        return None

    def input_ids(self, rng: random.Random) -> Tensor:
        """Choose a template, and fill in each name, as ids [N, T]."""
        return self._ids(rng.choice(self._templates))

    def _ids(self, template: str) -> Tensor:
        return torch.from_numpy(self._tokenizer.encode([template.replace("{}", name) for name in self._names]))
