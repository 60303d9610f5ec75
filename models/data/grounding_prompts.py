"""Prompts for records: text to ask a detector for, and the tokens that name each box.

A detection record becomes a prompt of its categories and of random others, up to the token limit (Li et al. 2022,
section 3.1; GLIP's data/datasets/od_to_grounding.py); a caption is kept, and its phrases name the boxes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from models.data.images import DataError
from models.data.records import DetectionRecord, Float32, GroundingRecord, Int64, Region
from server.contract.text import NO_LABEL, Prompt, PromptError, PromptTokenizer, PromptTooLong

Bool = npt.NDArray[np.bool_]


class PromptConfig(BaseModel):
    """Sampling of prompts.

    `absent`: share of the prompts that name nothing in the picture, which teaches a detector to find nothing; in the
    others, each category of the picture is named with the probability `asked`.

    Category prompts: `negatives` is the largest number of absent categories (GLIP's RANDOM_SAMPLE_NEG), taken in the
    share `full` of the prompts; the others have a random number from 1 (its CONTROL_PROB). `clean_names`: without
    brackets and underscores, as GLIP.

    Generated scenes: prompts have `fewest_labels` to `most_labels` labels. A share `described` of the named objects is
    described by colour, place or size, and a share `misdescribed` of those with a colour by one they do not have. A
    share `similar` of the absent names is like that of something present.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    absent: float = Field(default=0.0, ge=0, le=1)
    asked: float = Field(default=1.0, ge=0, le=1)
    negatives: NonNegativeInt = 85
    full: float = Field(default=0.5, ge=0, le=1)
    clean_names: bool = True
    fewest_labels: PositiveInt = 1
    most_labels: PositiveInt = 14
    described: float = Field(default=0.3, ge=0, le=1)
    misdescribed: float = Field(default=0.3, ge=0, le=1)
    similar: float = Field(default=0.3, ge=0, le=1)


@dataclass(frozen=True, eq=False)
class GroundedPrompt:
    """A prompt of T tokens and the boxes it names.

    boxes_xyxy [M, 4]; positive [M, T] bool, the tokens that name each box; labels [K, T] bool, the tokens of each label
    or phrase of the prompt. `box_labels`: the label of each box, None where phrases of a caption name them.
    """

    prompt: Prompt
    boxes_xyxy: Float32
    positive: Bool
    labels: Bool
    box_labels: tuple[str, ...] | None = None


class PromptSampler:
    """Makes prompts for one tokenizer and its token limit."""

    def __init__(self, tokenizer: PromptTokenizer, max_tokens: int, config: PromptConfig) -> None:
        self._tokenizer, self._max_tokens, self._config = tokenizer, max_tokens, config
        self._lengths: dict[str, int] = {}

    def with_absent(self, share: float) -> "PromptSampler":
        """A sampler of the same kind: a `share` of its prompts names nothing present, the others all that is."""
        config = self._config.model_copy(update={"absent": share, "asked": 1.0})
        return PromptSampler(self._tokenizer, self._max_tokens, config)

    def sample(
        self, record: DetectionRecord | GroundingRecord, boxes_xyxy: Float32, rows: Int64, rng: np.random.Generator
    ) -> GroundedPrompt:
        """Make a prompt for a record; boxes_xyxy [M, 4] are those left of its boxes, at `rows` [M] in their order."""
        try:
            if isinstance(record, DetectionRecord):
                return self._from_categories(record, boxes_xyxy, record.labels[rows], rng)
            owner = np.repeat(np.arange(len(record.regions)), [len(region.boxes_xyxy) for region in record.regions])
            return self._from_caption(record, boxes_xyxy, owner[rows], rng)
        except PromptError as error:
            raise DataError(f"{record.where}: {error}") from error

    def _from_categories(
        self, record: DetectionRecord, boxes_xyxy: Float32, labels: Int64, rng: np.random.Generator
    ) -> GroundedPrompt:
        present = rng.permutation(np.unique(labels))
        others = np.setdiff1d(np.arange(len(record.names)), np.unique(record.labels))
        if record.absent is not None:
            others = np.intersect1d(others, np.asarray(record.absent, np.int64))
        others = rng.permutation(others)
        if len(others):
            present = self._asked(present, rng)
        limit = min(self._config.negatives, len(others))
        # At least one where nothing is present: there is no prompt without a label.
        count = limit if rng.random() < self._config.full else int(rng.integers(1, max(1, limit) + 1))
        names = {int(place): self._name(record.names[place]) for place in (*present, *others[:count])}
        chosen = self._fitting([*names], [*names.values()])
        if not chosen:
            raise DataError(f"{record.where}: no category can be asked for: there is none, or none fits the prompt")
        order = [int(place) for place in rng.permutation(chosen)]
        # Categories of one name, as LVIS has them once brackets are gone, are one label.
        texts = list(dict.fromkeys(names[place] for place in order))
        label_of = {place: texts.index(names[place]) for place in order}
        named = np.flatnonzero(np.isin(labels, order))
        targets = np.asarray([label_of[int(labels[row])] for row in named], np.int64)
        return self._of_labels(texts, boxes_xyxy[named], targets)

    def _asked(self, present: Int64, rng: np.random.Generator) -> Int64:
        """The present categories that are named."""
        config = self._config
        if config.absent and rng.random() < config.absent:
            return present[:0]
        return present if config.asked == 1 else present[rng.random(len(present)) < config.asked]

    def _from_caption(
        self, record: GroundingRecord, boxes_xyxy: Float32, owner: Int64, rng: np.random.Generator
    ) -> GroundedPrompt:
        try:
            prompt = self._tokenizer.from_caption(record.caption)
        except PromptTooLong:
            return self._from_phrases(record, boxes_xyxy, owner, rng)
        tokens = np.stack([named_tokens(prompt, region) for region in record.regions] or [np.zeros(len(prompt), bool)])
        if len(record.regions) == 0:
            return GroundedPrompt(prompt, boxes_xyxy, np.zeros((0, len(prompt)), np.bool_), tokens)
        return GroundedPrompt(prompt, *_merge_boxes(boxes_xyxy, tokens[owner]), tokens)

    def _from_phrases(
        self, record: GroundingRecord, boxes_xyxy: Float32, owner: Int64, rng: np.random.Generator
    ) -> GroundedPrompt:
        """Make a prompt of the boxed phrases, as many as fit, of a caption over the token limit."""
        phrases = [" ".join(record.caption[start:end] for start, end in region.spans) for region in record.regions]
        places = rng.permutation(len(phrases)).tolist()
        chosen = self._fitting(places, [phrases[place] for place in places])
        if not chosen:
            raise DataError(f"{record.where}: the caption is longer than {self._max_tokens} tokens and has no phrase")
        texts = list(dict.fromkeys(phrases[place] for place in chosen))
        named = np.flatnonzero(np.isin(owner, chosen))
        targets = np.asarray([texts.index(phrases[owner[row]]) for row in named], np.int64)
        return self._of_labels(texts, boxes_xyxy[named], targets)

    def _of_labels(self, texts: Sequence[str], boxes_xyxy: Float32, targets: Int64) -> GroundedPrompt:
        prompt = self._tokenizer.from_labels(texts)
        labels = prompt.token_label[None] == np.arange(len(texts))[:, None]
        return GroundedPrompt(prompt, boxes_xyxy, labels[targets], labels, tuple(texts[target] for target in targets))

    def _fitting(self, places: list[int], texts: list[str]) -> list[int]:
        """The first places that fit within the token limit."""
        room, chosen = self._max_tokens - 2, []  # start and end
        for place, text in zip(places, texts, strict=True):
            length = self._length(text)
            if 0 < length <= room:
                room -= length
                chosen.append(place)
        return chosen

    def _length(self, text: str) -> int:
        """Tokens of a label with its separator; 0 for one that is too long for the model."""
        if text not in self._lengths:
            try:
                self._lengths[text] = len(self._tokenizer.from_labels([text])) - 2
            except PromptTooLong:
                self._lengths[text] = 0
        return self._lengths[text]

    def _name(self, name: str) -> str:
        return clean_name(name) if self._config.clean_names else name


def named_tokens(prompt: Prompt, region: Region) -> Bool:
    """Mark the tokens [T] of a caption's prompt that share a character with a region's spans."""
    starts = np.asarray([label.start or 0 for label in prompt.labels], np.int64)
    inside = prompt.token_label != NO_LABEL
    spans = prompt.token_span + np.where(inside, starts[prompt.token_label], 0)[:, None]
    hit = np.zeros(len(prompt), np.bool_)
    for start, end in region.spans:
        hit |= inside & (spans[:, 0] < end) & (spans[:, 1] > start)
    return hit


def clean_name(name: str) -> str:
    """Remove brackets, with what is in them, and underscores from a category's name (as GLIP's `clean_name`)."""
    text = re.sub(r"\s+", " ", re.sub(r"\(.*\)", "", name).replace("_", " ")).strip()
    return text or name


def _merge_boxes(boxes_xyxy: Float32, positive: Bool) -> tuple[Float32, Bool]:
    """Merge equal boxes of several phrases, with the tokens of all; boxes that no token names are left out."""
    named = positive.any(1)
    boxes, place = np.unique(boxes_xyxy[named], axis=0, return_inverse=True)
    tokens = np.zeros((len(boxes), positive.shape[1]), np.bool_)
    np.logical_or.at(tokens, place.reshape(-1), positive[named])
    return boxes.astype(np.float32), tokens
