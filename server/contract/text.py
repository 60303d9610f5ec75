"""Text preprocessing: sentences for CLIP, prompts with exact label spans for the detectors.

Tokens are never decoded back to text. A label is tokenised on its own and keeps its span, so "car" is not found inside
"cartoon", duplicates stay apart, and a detection carries the label as it was written.
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

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_LABEL = -1
_PHRASE = re.compile(r"([^.?]*)([.?]?)")


class PromptError(ValueError):
    """Text that cannot be asked for; the message names it."""


class PromptTooLong(PromptError):
    """Text that does not fit the model's token limit."""


@dataclass(frozen=True)
class Phrase:
    """A label as the user wrote it; for a caption, the characters [start, end) it stands at."""

    text: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, eq=False)
class Prompt:
    """A tokenised prompt of T tokens.

    input_ids, position_ids [T] int64; self_attention_mask [T, T] bool, True where a token may look; token_label [T]
    int64, the label a token belongs to or -1; token_span [T, 2] int64, the token's characters in its own label.
    Two prompts with the same `key` have the same text features. Of a request in several passes each has its own prompt,
    whose labels begin at the request's `first_label`.
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
class _Asked:
    """A phrase with its tokens and the separator behind them."""

    phrase: Phrase
    separator: int
    tokens: Encoding

    def __len__(self) -> int:
        return len(self.tokens.ids) + 1


class SentenceTokenizer:
    """Texts to rows of ids for a CLIP text tower (openai/CLIP clip/simple_tokenizer.py and `tokenize`)."""

    def __init__(self, file: Path, rules: TextRules) -> None:
        self._tokenizer = read_tokenizer(file)
        self._rules = rules

    def encode(self, texts: Sequence[str]) -> Int64:
        """[B, T] int64, T that of the longest text; the causal tower does not see the padding behind a text's end."""
        rows = [self._row(text) for text in texts]
        length = max((len(row) for row in rows), default=0)
        ids = np.full((len(rows), length), self._rules.pad_id, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids

    def _row(self, text: str) -> list[int]:
        tokens = self._tokenizer.encode(
            clean_sentence(text, lower_case=self._rules.lower_case), add_special_tokens=False
        ).ids
        if not tokens:
            raise PromptError(f"{shown(text)} has no word the model can read")
        row = [self._rules.start_id, *tokens, self._rules.end_id]
        if len(row) > self._rules.max_tokens:
            raise PromptTooLong(f"{shown(text)} takes {len(row)} tokens, the model reads {self._rules.max_tokens}")
        return row


class PromptTokenizer:
    """Labels or a caption to a `Prompt` for a detector, or to several where one does not hold them.

    The start, then each label's tokens and a separator, then the end; with attention "label" as GroundingDINO
    models/GroundingDINO/bertwarper.py groups them, with "prompt" as microsoft/GLIP engine/predictor_glip.py does.
    """

    def __init__(self, file: Path, rules: TextRules) -> None:
        self._tokenizer = read_tokenizer(file)
        self._rules = rules

    def from_labels(self, labels: Sequence[str]) -> Prompt:
        """The one prompt that asks for `labels`, in their order; PromptTooLong where there is none."""
        return self.label_passes(labels, max_passes=1)[0]

    def from_caption(self, caption: str) -> Prompt:
        """The one prompt of a caption; a phrase ends at "." or "?", as in the official code."""
        return self.caption_passes(caption, max_passes=1)[0]

    def label_passes(self, labels: Sequence[str], *, max_passes: int) -> tuple[Prompt, ...]:
        """The fewest prompts that hold `labels` in their order, each whole.

        PromptTooLong for a label that no prompt holds, and where more than `max_passes` are needed.
        """
        if not labels:
            raise PromptError("no label was given: name at least one thing to look for")
        separator = self._rules.separator_ids[0]
        return self._passes([self._asked(Phrase(label), separator) for label in labels], max_passes)

    def caption_passes(self, caption: str, *, max_passes: int) -> tuple[Prompt, ...]:
        """As `label_passes`, of a caption's phrases."""
        asked = []
        for match in _PHRASE.finditer(caption):
            text = match[1].strip()
            if text:
                start = match.start() + match[1].index(text)
                separator = self._rules.separator_ids[-1 if match[2] == "?" else 0]
                asked.append(self._asked(Phrase(text, start, start + len(text)), separator))
        if not asked:
            raise PromptError(f"{shown(caption)} names nothing to look for: write it like 'a dog. a bicycle.'")
        return self._passes(asked, max_passes)

    def _passes(self, asked: Sequence[_Asked], max_passes: int) -> tuple[Prompt, ...]:
        room = self._rules.max_tokens - 2  # besides start and end
        starts, taken = [0], 0
        for place, each in enumerate(asked):
            if taken + len(each) > room and taken:
                starts.append(place)
                taken = 0
            taken += len(each)
        if len(starts) > max_passes:
            told = f"the prompt's {len(asked)} label(s) take {sum(map(len, asked)) + 2} tokens, the model reads"
            if max_passes == 1:
                raise PromptTooLong(f"{told} {self._rules.max_tokens}")
            raise PromptTooLong(
                f"{told} {self._rules.max_tokens} in one pass: of the {len(starts)} passes that they need at most"
                f" {max_passes} are run (max_passes); ask for fewer in a request"
            )
        ends = [*starts[1:], len(asked)]
        return tuple(self._prompt(asked[start:end], start) for start, end in zip(starts, ends, strict=True))

    def _prompt(self, asked: Sequence[_Asked], first_label: int) -> Prompt:
        rules = self._rules
        ids, owner, spans, counts = [rules.start_id], [NO_LABEL], [(0, 0)], [1]
        for label_id, each in enumerate(asked):
            ids += [*each.tokens.ids, each.separator]
            named = self._named(each.tokens)
            owner += [label_id] * named + [NO_LABEL] * (len(each) - named)
            spans += [*each.tokens.offsets, (0, 0)]
            counts.append(len(each))
        ids, owner, spans, counts = [*ids, rules.end_id], [*owner, NO_LABEL], [*spans, (0, 0)], [*counts, 1]
        group, positions = _groups(counts if rules.attention == "label" else [len(ids)])
        input_ids = np.asarray(ids, np.int64)
        return Prompt(
            labels=tuple(each.phrase for each in asked),
            input_ids=input_ids,
            position_ids=positions,
            self_attention_mask=group[:, None] == group[None],
            token_label=np.asarray(owner, np.int64),
            token_span=np.asarray(spans, np.int64),
            key=hashlib.sha256(input_ids.tobytes() + group.tobytes()).hexdigest(),
            first_label=first_label,
        )

    def _named(self, tokens: Encoding) -> int:
        """How many of a label's tokens, from its first, speak for it: all but rarely.

        GLIP trained each label up to the first token of its last character (engine/predictor_glip.py
        `create_positive_map`), and a Korean syllable becomes a token a letter.
        """
        if self._rules.attention == "label":
            return len(tokens.ids)
        last_character = tokens.offsets[-1][1] - 1
        return 1 + next(index for index, (_, end) in enumerate(tokens.offsets) if end > last_character)

    def _asked(self, phrase: Phrase, separator: int) -> _Asked:
        label = phrase.text
        tokens = self._tokenizer.encode(label, add_special_tokens=False)
        if not tokens.ids:
            raise PromptError(f"label {shown(label)} has no word the model can read")
        asked = _Asked(phrase, separator, tokens)
        room = self._rules.max_tokens - 2  # besides start and end
        limit = min(room, self._rules.max_label_tokens or room)
        if len(asked) > limit:
            raise PromptTooLong(f"label {shown(label)} takes {len(asked)} tokens, the model reads {limit}")
        return asked


def pad_prompts(prompts: Sequence[Prompt], length: int) -> dict[str, npt.NDArray[np.generic]]:
    """Prompts as one batch of `length` tokens.

    input_ids, position_ids [B, T]; self_attention_mask [B, T, T], where padding looks at itself only; text_mask [B, T],
    True where a token is valid; token_label [B, T] int64, -1 on tokens of no label and on padding.
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
    """For groups of `counts` tokens that see each other: the group of each token, and its position in it, both [T]."""
    group = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    starts = np.cumsum([0, *counts[:-1]], dtype=np.int64)
    return group, np.arange(len(group), dtype=np.int64) - starts[group]


def token_bucket(length: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that holds `length` tokens; `length` itself where none does."""
    return min((size for size in sizes if size >= length), default=length)


def clean_sentence(text: str, *, lower_case: bool) -> str:
    """Text as CLIP's tokeniser sees it: mojibake mended, HTML unescaped twice, white space single, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = re.sub(r"\s+", " ", text.strip()).strip()
    return text.lower() if lower_case else text


def read_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer stored in `file`; BundleError where it is none."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for every fault of the file
        raise BundleError(f"{file} is no tokenizer file: {error}") from error
    tokenizer.no_truncation()  # a published file may ask for it, and would cut a text silently
    tokenizer.no_padding()
    return tokenizer


def shown(text: str, limit: int = 60) -> str:
    """`text` as an error message may repeat it: quoted and cut."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
