"""Words that a model's vocabulary lacks: an emoji or another script, of which it can only guess."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

_MAX_SHOWN = 5


@dataclass(frozen=True)
class Reading:
    """The extent to which a vocabulary knows a text.

    `unread` are the parts it has no token for: they become the unknown token, or several tokens for one character, its
    bytes. `nothing` is True where no token is left besides. `spelled`: letters of another script, each a token by
    itself, as in a vocabulary of one language that has the letters of all.
    """

    unread: tuple[str, ...] = ()
    nothing: bool = False
    spelled: bool = False

    def __str__(self) -> str:
        parts = ", ".join(self.unread[:_MAX_SHOWN]) + (", …" if len(self.unread) > _MAX_SHOWN else "")
        if self.nothing:
            return "the model's vocabulary knows no part of it"
        if self.unread:
            return f"the model's vocabulary does not know {parts}: it reads the rest"
        return "the model's vocabulary has only single letters of it: it may not know the word"

    @property
    def complete(self) -> bool:
        """True where nothing is to be told."""
        return not self.unread and not self.spelled


KNOWN = Reading()


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Id of the token that stands for unknown words; None where the tokenizer has none."""
    token = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(token) if token else None


def reading(text: str, encoding: Encoding, unknown: int | None) -> Reading:
    """The reading of `text`, tokenised as `encoding`; `unknown` is the id of the unknown token."""
    if text.isascii() and unknown not in encoding.ids:
        return KNOWN
    offsets: Sequence[tuple[int, int]] = encoding.offsets
    repeated = Counter(span for span in offsets if span[1] - span[0] == 1)
    lacking = [
        token == unknown or (repeated[span] > 1 and _is_symbol(text[slice(*span)]))
        for token, span in zip(encoding.ids, offsets, strict=True)
    ]
    spans = dict.fromkeys(span for span, lacks in zip(offsets, lacking, strict=True) if lacks)
    singles = all(end - start <= 1 for start, end in offsets)
    return Reading(
        tuple(text[slice(*span)] for span in spans),
        nothing=bool(lacking) and all(lacking),
        spelled=not spans and len(offsets) > 1 and singles and _has_foreign_letters(text),
    )


def _is_symbol(character: str) -> bool:
    """True for a character beyond ASCII: one of ASCII may be several tokens by a normaliser's own rule."""
    return not character.isascii()


def _has_foreign_letters(text: str) -> bool:
    return any(letter.isalpha() and not unicodedata.name(letter, "").startswith("LATIN") for letter in text)
