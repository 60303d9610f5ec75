"""The small vocabulary of a trained model: the words of its objects, and letters to spell all others."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from models.tokenizers import small_wordpiece

CONTEXT_LENGTH = 77


def write_vocabulary(texts: Iterable[str], file: Path) -> None:
    """Write a `tokenizer.json` whose whole words are those of `texts`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small_wordpiece(word for text in texts for word in text.split()).save(str(file))


def vocabulary_size(file: Path) -> int:
    """Number of tokens of a `tokenizer.json`."""
    return int(Tokenizer.from_file(str(file)).get_vocab_size())
