"""From a record to a prompt and the tokens that name each box.

A detection record becomes a prompt of its categories and of random others, up to the token limit (Li et al. 2022,
section 3.1; GLIP's data/datasets/od_to_grounding.py); a caption stays as it is, and its phrases name the boxes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.data.images import DataError
from models.data.records import DetectionRecord, Float32, GroundingRecord, Int64, Region
from server.contract.text import NO_LABEL, Prompt, PromptError, PromptTokenizer, PromptTooLong

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PromptingConfig:
    """`negatives`: at most so many absent categories (GLIP's RANDOM_SAMPLE_NEG); in the share `full` of the prompts as
    many as that, in the others a random number from 1 (its CONTROL_PROB). `clean_names`: as GLIP, without brackets and
    underscores.
    """

    negatives: int = 85
    full: float = 0.5
    clean_names: bool = True


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt of T tokens and what it names.

    boxes_xyxy [M, 4]; positive [M, T] bool, the tokens that name each; labels [K, T] bool, the tokens of each label or
    phrase of the prompt.
    """

    prompt: Prompt
    boxes_xyxy: Float32
    positive: Bool
    labels: Bool


class Prompter:
    """Makes prompts for one tokenizer and its limit."""

    def __init__(self, tokenizer: PromptTokenizer, max_tokens: int, config: PromptingConfig) -> None:
        self._tokenizer, self._max_tokens, self._config = tokenizer, max_tokens, config
        self._lengths: dict[str, int] = {}

    def ask(
        self, record: DetectionRecord | GroundingRecord, boxes_xyxy: Float32, rows: Int64, rng: np.random.Generator
    ) -> Question:
        """A prompt for a record, of whose boxes (phrase after phrase) `rows` [M] are left, as boxes_xyxy [M, 4]."""
        try:
            if isinstance(record, DetectionRecord):
                return self._from_categories(record, boxes_xyxy, record.labels[rows], rng)
            owner = np.repeat(np.arange(len(record.regions)), [len(region.boxes_xyxy) for region in record.regions])
            return self._from_caption(record, boxes_xyxy, owner[rows], rng)
        except PromptError as error:
            raise DataError(f"{record.where}: {error}") from error

    def _from_categories(
        self, record: DetectionRecord, boxes_xyxy: Float32, labels: Int64, rng: np.random.Generator
    ) -> Question:
        present = rng.permutation(np.unique(labels))
        others = np.setdiff1d(np.arange(len(record.names)), np.unique(record.labels))
        if record.absent is not None:
            others = np.intersect1d(others, np.asarray(record.absent, np.int64))
        others = rng.permutation(others)
        limit = min(self._config.negatives, len(others))
        # At least one where nothing is there: there is no prompt without a label.
        count = limit if rng.random() < self._config.full else int(rng.integers(1, max(1, limit) + 1))
        names = {int(place): self._name(record.names[place]) for place in (*present, *others[:count])}
        chosen = self._fitting([*names], [*names.values()])
        if not chosen:
            raise DataError(f"{record.where}: no category can be asked for: none is named, or none fits the prompt")
        order = [int(place) for place in rng.permutation(chosen)]
        # Categories of one name, as LVIS has them once brackets are gone, are one label.
        texts = list(dict.fromkeys(names[place] for place in order))
        label_of = {place: texts.index(names[place]) for place in order}
        named = np.flatnonzero(np.isin(labels, order))
        targets = np.asarray([label_of[int(labels[row])] for row in named], np.int64)
        return self._of_labels(texts, boxes_xyxy[named], targets)

    def _from_caption(
        self, record: GroundingRecord, boxes_xyxy: Float32, owner: Int64, rng: np.random.Generator
    ) -> Question:
        try:
            prompt = self._tokenizer.from_caption(record.caption)
        except PromptTooLong:
            return self._from_phrases(record, boxes_xyxy, owner, rng)
        tokens = np.stack([named_tokens(prompt, region) for region in record.regions] or [np.zeros(len(prompt), bool)])
        if len(record.regions) == 0:
            return Question(prompt, boxes_xyxy, np.zeros((0, len(prompt)), np.bool_), tokens)
        return Question(prompt, *_merged(boxes_xyxy, tokens[owner]), tokens)

    def _from_phrases(
        self, record: GroundingRecord, boxes_xyxy: Float32, owner: Int64, rng: np.random.Generator
    ) -> Question:
        """A caption over the token limit: its boxed phrases as labels, as many as fit."""
        phrases = [" ".join(record.caption[start:end] for start, end in region.spans) for region in record.regions]
        places = rng.permutation(len(phrases)).tolist()
        chosen = self._fitting(places, [phrases[place] for place in places])
        if not chosen:
            raise DataError(f"{record.where}: the caption is longer than {self._max_tokens} tokens and has no phrase")
        texts = list(dict.fromkeys(phrases[place] for place in chosen))
        named = np.flatnonzero(np.isin(owner, chosen))
        targets = np.asarray([texts.index(phrases[owner[row]]) for row in named], np.int64)
        return self._of_labels(texts, boxes_xyxy[named], targets)

    def _of_labels(self, texts: Sequence[str], boxes_xyxy: Float32, targets: Int64) -> Question:
        prompt = self._tokenizer.from_labels(texts)
        labels = prompt.token_label[None] == np.arange(len(texts))[:, None]
        return Question(prompt, boxes_xyxy, labels[targets], labels)

    def _fitting(self, places: list[int], texts: list[str]) -> list[int]:
        """As many of the first places as the token limit has room for."""
        room, chosen = self._max_tokens - 2, []  # start and end
        for place, text in zip(places, texts, strict=True):
            length = self._length(text)
            if 0 < length <= room:
                room -= length
                chosen.append(place)
        return chosen

    def _length(self, text: str) -> int:
        """Tokens of a label with its separator; 0 where it is too long for the model."""
        if text not in self._lengths:
            try:
                self._lengths[text] = len(self._tokenizer.from_labels([text])) - 2
            except PromptTooLong:
                self._lengths[text] = 0
        return self._lengths[text]

    def _name(self, name: str) -> str:
        return cleaned(name) if self._config.clean_names else name


def named_tokens(prompt: Prompt, region: Region) -> Bool:
    """The tokens [T] of a caption's prompt that share a character with a region's spans."""
    starts = np.asarray([label.start or 0 for label in prompt.labels], np.int64)
    inside = prompt.token_label != NO_LABEL
    spans = prompt.token_span + np.where(inside, starts[prompt.token_label], 0)[:, None]
    hit = np.zeros(len(prompt), np.bool_)
    for start, end in region.spans:
        hit |= inside & (spans[:, 0] < end) & (spans[:, 1] > start)
    return hit


def cleaned(name: str) -> str:
    """A category's name without what stands in brackets and without underscores (GLIP's `clean_name`)."""
    text = re.sub(r"\s+", " ", re.sub(r"\(.*\)", "", name).replace("_", " ")).strip()
    return text or name


def _merged(boxes_xyxy: Float32, positive: Bool) -> tuple[Float32, Bool]:
    """A box that several phrases name, once, with the tokens of all; boxes no token names are left out."""
    named = positive.any(1)
    boxes, place = np.unique(boxes_xyxy[named], axis=0, return_inverse=True)
    tokens = np.zeros((len(boxes), positive.shape[1]), np.bool_)
    np.logical_or.at(tokens, place.reshape(-1), positive[named])
    return boxes.astype(np.float32), tokens
