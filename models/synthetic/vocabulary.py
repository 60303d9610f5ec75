"""The small vocabulary of a trained model: the words of its objects, and letters to spell all others."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from models.tokenizers import small_wordpiece, word_pieces

CONTEXT_LENGTH = 77
PIECES = 600  # a quarter of them are letters


def write_vocabulary(texts: Iterable[str], file: Path) -> None:
    """Write a `tokenizer.json` whose whole words are those of `texts`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small_wordpiece(word for text in texts for word in text.split()).save(str(file))


def write_english_vocabulary(needed: Iterable[str], common: Sequence[str], file: Path, *, size: int) -> None:
    """Write a `tokenizer.json` of at most `size` tokens.

    It has the words of the texts `needed`, pieces that spell English, and as many words of the texts `common`, the
    first first, as there is room for; ValueError if there is none.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    pieces = word_pieces(common, PIECES)
    words = dict.fromkeys(word for text in needed for word in text.split())
    room = size - int(small_wordpiece(words, pieces).get_vocab_size())
    if room < 0:
        raise ValueError(f"a vocabulary of {size} tokens has no room for all words that are needed: it lacks {-room}")
    known = set(words)
    more = [word for word in dict.fromkeys(word for text in common for word in text.split()) if word not in known]
    small_wordpiece([*words, *more[:room]], pieces).save(str(file))


def vocabulary_size(file: Path) -> int:
    """Number of tokens of a `tokenizer.json`."""
    return int(Tokenizer.from_file(str(file)).get_vocab_size())
