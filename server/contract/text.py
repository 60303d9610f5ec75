"""Text preprocessing: sentences for CLIP, prompts with exact label spans for the detectors.

Tokens are never decoded back to text. Each label is tokenised on its own and keeps its span, so "car" is not found in
"cartoon", duplicates stay apart, and a detection carries the label as the client wrote it.
"""

import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ftfy
import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from server.contract.manifest import BundleError, TextRules
from server.contract.vocabulary import KNOWN, Reading, reading, unknown_id

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_LABEL = -1
# Bytes of a tokenizer file; the largest that models of these kinds have is a third of it.
MAX_TOKENIZER = 64 * 2**20
_PHRASE = re.compile(r"([^.?]*)([.?]?)")


class PromptError(ValueError):
    """Text that cannot be used as a prompt; the message names it."""


class PromptTooLong(PromptError):
    """Text that does not fit the model's token limit."""


@dataclass(frozen=True)
class Phrase:
    """A label as the client wrote it; of a caption, with its characters [start, end) and the mark that ends it."""

    text: str
    start: int | None = None
    end: int | None = None
    mark: str = "."


@dataclass(frozen=True, eq=False)
class Prompt:
    """A tokenised prompt of T tokens.

    input_ids, position_ids [T] int64; self_attention_mask [T, T] bool, True where a token may attend; token_label [T]
    int64, the label a token belongs to or -1; token_span [T, 2] int64, characters of a token in its own label.
    Prompts with the same `key` have the same text features. Each pass of a request has its own prompt, whose labels
    start at label `first_label` of the request.
    """

    labels: tuple[Phrase, ...]
    input_ids: Int64
    position_ids: Int64
    self_attention_mask: Bool
    token_label: Int64
    token_span: Int64
    key: str
    first_label: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, eq=False)
class TokenizedPhrase:
    """A label with its tokens and the separator that follows them."""

    label: Phrase
    separator: int
    tokens: Encoding
    reading: Reading = KNOWN

    def __len__(self) -> int:
        return len(self.tokens.ids) + 1


class SentenceTokenizer:
    """Tokenizer of texts for a CLIP text tower (openai/CLIP clip/simple_tokenizer.py and `tokenize`)."""

    def __init__(self, file: Path, rules: TextRules) -> None:
        self._tokenizer = read_tokenizer(file)
        self._unknown = unknown_id(self._tokenizer)
        self._rules = rules

    def readings(self, texts: Sequence[str]) -> list[Reading]:
        """The extent to which the vocabulary knows each text."""
        return [KNOWN if text.isascii() else self._reading(text) for text in texts]

    def _reading(self, text: str) -> Reading:
        cleaned = clean_sentence(text, lower_case=self._rules.lower_case)
        return reading(cleaned, _encoded(self._tokenizer, cleaned), self._unknown)

    def encode(self, texts: Sequence[str]) -> Int64:
        """Token ids [B, T] int64, T of the longest text; the causal tower does not see the padding after a text."""
        rows = [self._row(text) for text in texts]
        length = max((len(row) for row in rows), default=0)
        ids = np.full((len(rows), length), self._rules.pad_id, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids

    def _row(self, text: str) -> list[int]:
        tokens = _encoded(self._tokenizer, clean_sentence(text, lower_case=self._rules.lower_case)).ids
        if not tokens:
            raise PromptError(f"{shown(text)} has no word the model can read")
        row = [self._rules.start_id, *tokens, self._rules.end_id]
        if len(row) > self._rules.max_tokens:
            raise PromptTooLong(f"{shown(text)} takes {len(row)} tokens, the model reads {self._rules.max_tokens}")
        return row


class PromptTokenizer:
    """Tokenizer of labels or a caption to a `Prompt` for a detector, or to several where one does not hold them.

    A prompt is the start, then the tokens of each label and a separator, then the end; grouped with attention "label"
    as in GroundingDINO models/GroundingDINO/bertwarper.py, with "prompt" as in microsoft/GLIP engine/predictor_glip.py.
    """

    def __init__(self, file: Path, rules: TextRules) -> None:
        self._tokenizer = read_tokenizer(file)
        self._unknown = unknown_id(self._tokenizer)
        self._rules = rules

    def from_labels(self, labels: Sequence[str]) -> Prompt:
        """The one prompt of `labels`, in their order; PromptTooLong where they do not fit."""
        return self.label_passes(labels, max_passes=1)[0]

    def from_caption(self, caption: str) -> Prompt:
        """The one prompt of a caption, whose phrases end at "." or "?", as in the official code."""
        return self.passes(self.tokenize(caption_phrases(caption)), max_passes=1)[0]

    def label_passes(self, labels: Sequence[str], *, max_passes: int) -> tuple[Prompt, ...]:
        """The fewest prompts that hold `labels` in their order, none split.

        PromptTooLong for a label that no prompt holds, and where more than `max_passes` are needed.
        """
        return self.passes(self.tokenize(label_phrases(labels)), max_passes=max_passes)

    def tokenize(self, phrases: Sequence[Phrase]) -> list[TokenizedPhrase]:
        """The phrases with their tokens; PromptTooLong for one that no prompt holds."""
        return [self._tokenized(phrase) for phrase in phrases]

    def passes(self, phrases: Sequence[TokenizedPhrase], *, max_passes: int) -> tuple[Prompt, ...]:
        """The fewest prompts that hold all `phrases`; PromptTooLong where more than `max_passes` are needed."""
        room = self._rules.max_tokens - 2  # besides start and end
        starts, length = [0], 0
        for index, phrase in enumerate(phrases):
            if length + len(phrase) > room and length:
                starts.append(index)
                length = 0
            length += len(phrase)
        if len(starts) > max_passes:
            fault = f"the prompt's {len(phrases)} label(s) take {sum(map(len, phrases)) + 2} tokens, the model reads"
            if max_passes == 1:
                raise PromptTooLong(f"{fault} {self._rules.max_tokens}")
            raise PromptTooLong(
                f"{fault} {self._rules.max_tokens} in one pass: of the {len(starts)} passes that they need at most"
                f" {max_passes} are run (max_passes); ask for fewer in a request"
            )
        ends = [*starts[1:], len(phrases)]
        return tuple(self._prompt(phrases[start:end], start) for start, end in zip(starts, ends, strict=True))

    def _prompt(self, phrases: Sequence[TokenizedPhrase], first_label: int) -> Prompt:
        rules = self._rules
        ids, owner, spans, counts = [rules.start_id], [NO_LABEL], [(0, 0)], [1]
        for label_id, phrase in enumerate(phrases):
            ids += [*phrase.tokens.ids, phrase.separator]
            num_scored = self._num_scored(phrase.tokens)
            owner += [label_id] * num_scored + [NO_LABEL] * (len(phrase) - num_scored)
            spans += [*phrase.tokens.offsets, (0, 0)]
            counts.append(len(phrase))
        ids, owner, spans, counts = [*ids, rules.end_id], [*owner, NO_LABEL], [*spans, (0, 0)], [*counts, 1]
        group, positions = _groups(counts if rules.attention == "label" else [len(ids)])
        input_ids = np.asarray(ids, np.int64)
        return Prompt(
            labels=tuple(phrase.label for phrase in phrases),
            input_ids=input_ids,
            position_ids=positions,
            self_attention_mask=group[:, None] == group[None],
            token_label=np.asarray(owner, np.int64),
            token_span=np.asarray(spans, np.int64),
            key=hashlib.sha256(input_ids.tobytes() + group.tobytes()).hexdigest(),
            first_label=first_label,
        )

    def _num_scored(self, tokens: Encoding) -> int:
        """Number of a label's tokens, from its first, whose scores count for it: nearly always all.

        GLIP trained each label up to the first token of its last character (engine/predictor_glip.py
        `create_positive_map`), and a Korean syllable becomes one token per letter.
        """
        if self._rules.attention == "label":
            return len(tokens.ids)
        last_character = tokens.offsets[-1][1] - 1
        return 1 + next(index for index, (_, end) in enumerate(tokens.offsets) if end > last_character)

    def _tokenized(self, label: Phrase) -> TokenizedPhrase:
        tokens = _encoded(self._tokenizer, label.text)
        if not tokens.ids:
            raise PromptError(f"label {shown(label.text)} has no word the model can read")
        separator = self._rules.separator_ids[-1 if label.mark == "?" else 0]
        tokenized = TokenizedPhrase(label, separator, tokens, reading(label.text, tokens, self._unknown))
        room = self._rules.max_tokens - 2  # besides start and end
        limit = min(room, self._rules.max_label_tokens or room)
        if len(tokenized) > limit:
            raise PromptTooLong(f"label {shown(label.text)} takes {len(tokenized)} tokens, the model reads {limit}")
        return tokenized


def label_phrases(labels: Sequence[str]) -> list[Phrase]:
    """The phrases of `labels`; PromptError where there is none."""
    if not labels:
        raise PromptError("no label was given: name at least one thing to look for")
    return [Phrase(label) for label in labels]


def caption_phrases(caption: str) -> list[Phrase]:
    """The phrases of a caption, which end at "." or "?", as in the official code; PromptError where there is none."""
    phrases = []
    for match in _PHRASE.finditer(caption):
        if text := match[1].strip():
            start = match.start() + match[1].index(text)
            phrases.append(Phrase(text, start, start + len(text), match[2]))
    if not phrases:
        raise PromptError(f"{shown(caption)} names nothing to look for: write it like 'a dog. a bicycle.'")
    return phrases


def pad_prompts(prompts: Sequence[Prompt], length: int) -> dict[str, npt.NDArray[np.generic]]:
    """Pad prompts to one batch of `length` tokens.

    Returns input_ids, position_ids [B, T]; self_attention_mask [B, T, T], where padding attends to itself only;
    text_mask [B, T], True where a token is valid; token_label [B, T] int64, -1 on tokens of no label and on padding.
    """
    batch = len(prompts)
    ids = np.zeros((batch, length), np.int64)
    positions = np.zeros((batch, length), np.int64)
    attention = np.broadcast_to(np.eye(length, dtype=np.bool_), (batch, length, length)).copy()
    valid = np.zeros((batch, length), np.bool_)
    owner = np.full((batch, length), NO_LABEL, np.int64)
    for row, prompt in enumerate(prompts):
        size = len(prompt)
        ids[row, :size] = prompt.input_ids
        positions[row, :size] = prompt.position_ids
        attention[row, :size, :size] = prompt.self_attention_mask
        valid[row, :size] = True
        owner[row, :size] = prompt.token_label
    return {
        "input_ids": ids,
        "position_ids": positions,
        "self_attention_mask": attention,
        "text_mask": valid,
        "token_label": owner,
    }


def _groups(counts: Sequence[int]) -> tuple[Int64, Int64]:
    """Group of each token and its position in it, both [T], for groups of `counts` tokens that attend to each other."""
    group = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    starts = np.cumsum([0, *counts[:-1]], dtype=np.int64)
    return group, np.arange(len(group), dtype=np.int64) - starts[group]


def token_bucket(length: int, sizes: Sequence[int]) -> int:
    """Smallest of `sizes` that holds `length` tokens; `length` itself where none does."""
    return min((size for size in sizes if size >= length), default=length)


def clean_sentence(text: str, *, lower_case: bool) -> str:
    """Clean a text as CLIP does: mojibake fixed, HTML unescaped twice, white space collapsed, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = re.sub(r"\s+", " ", text.strip()).strip()
    return text.lower() if lower_case else text


def read_tokenizer(file: Path) -> Tokenizer:
    """Read the tokenizer in `file`; BundleError where it is none."""
    try:
        if (size := file.stat().st_size) > MAX_TOKENIZER:
            raise ValueError(f"it has {size} bytes, {MAX_TOKENIZER} at most are read")
        tokenizer = Tokenizer.from_file(str(file))
    except BaseException as error:  # the library raises plain Exception for most faults, and its panics are none
        _check_fault(error)
        raise BundleError(f"{file} is no tokenizer file: {error}") from error
    tokenizer.no_truncation()  # a published file may enable it, and would cut a text silently
    tokenizer.no_padding()
    return tokenizer


def _encoded(tokenizer: Tokenizer, text: str) -> Encoding:
    """The tokens of a text; PromptError for one that the tokenizer gives up, as a pattern that goes back and forth."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except BaseException as error:  # as above
        _check_fault(error)
        raise PromptError(f"{shown(text)} cannot be split into tokens by this model's tokenizer: {error}") from None


def _check_fault(error: BaseException) -> None:
    """Raise what ends the process, and is no fault of the library."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error


def shown(text: str, limit: int = 60) -> str:
    """Quote and shorten `text` for an error message."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
