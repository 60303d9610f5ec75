"""Words that a vocabulary lacks: unknown tokens, characters in bytes, letters of another script."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from server.contract.vocabulary import KNOWN, Reading, reading, unknown_id

PIECES = ["[UNK]", "dog", "cafe", "с", "##о", "##б", "##а", "##к"]


def word_pieces():
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def byte_level():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({byte: place for place, byte in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def read(tokenizer, text):
    return reading(text, tokenizer.encode(text, add_special_tokens=False), unknown_id(tokenizer))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog", KNOWN),
        ("café", KNOWN),
        ("🐕", Reading(("🐕",), nothing=True)),
        ("🐕 🐈", Reading(("🐕", "🐈"), nothing=True)),
        ("🐕 dog", Reading(("🐕",))),
        ("zzz", Reading(("zzz",), nothing=True)),
        ("собака", Reading(spelled=True)),
    ],
)
def test_word_pieces_lack_what_becomes_the_unknown_token(text, expected):
    assert read(word_pieces(), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("dog", KNOWN), ("🐕", Reading(("🐕",), nothing=True)), ("a🐕", Reading(("🐕",)))]
)
def test_bytes_lack_what_they_cut_in_pieces(text, expected):
    assert read(byte_level(), text) == expected


def test_reading_tells_what_it_lacks_in_a_sentence():
    assert str(Reading(("🐕",), nothing=True)) == "the model's vocabulary knows no part of it"
    assert "does not know a, b, c, d, e, …: it reads the rest" in str(Reading(tuple("abcdefg")))
    assert "single letters" in str(Reading(spelled=True))
