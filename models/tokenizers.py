"""Builds tokenizer.json files (of the `tokenizers` library) from the vocabularies of the families.

The files map clean text to ids only: cleaning, and start and end tokens, are the task of `server.contract.text`.
"""

import functools
import gzip
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from server.contract.manifest import TextRules

VOCABULARIES = Path(__file__).parent / "vocab"
CLIP_MERGES = VOCABULARIES / "clip_bpe_simple_vocab_16e6.txt.gz"
BERT_WORDS = VOCABULARIES / "bert_base_uncased_vocab.txt"

# Start, end and padding tokens of the vocabularies; OpenAI pads with id 0, which is "!" (clip/clip.py `tokenize`).
_BPE = ("<|startoftext|>", "<|endoftext|>", "!")
_WORDPIECE = ("[CLS]", "[SEP]", "[PAD]")
_SEPARATORS = (".", "?")

ENGLISH_PIECES = 600  # word pieces of an English vocabulary, a quarter of them letters
WORD_END = "</w>"
CLIP_SPECIALS = ("<|startoftext|>", "<|endoftext|>")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Split of openai/CLIP clip/simple_tokenizer.py: contractions, words, single digits, runs of anything else.
CLIP_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def standard_file(vocabulary: str) -> Path:
    """Path of the tokenizer.json of "clip_bpe" or "bert_wordpiece", in a folder deleted when the process ends."""
    builders = {"clip_bpe": clip_bpe, "bert_wordpiece": bert_wordpiece}
    if vocabulary not in builders:
        raise ValueError(f"vocabulary is {vocabulary!r}; accepted are {sorted(builders)}")
    path = Path(_temporary_folder().name) / f"{vocabulary}.json"
    if not path.exists():
        builders[vocabulary]().save(str(path), pretty=False)
    return path


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="openset-tokenizers-")


def clip_bpe(merges_file: Path = CLIP_MERGES) -> Tokenizer:
    """CLIP's byte-level BPE of 49408 ids; its special strings in a text become their ids, as in the official code."""
    lines = gzip.decompress(merges_file.read_bytes()).decode("utf-8").split("\n")
    rules = lines[1 : 49152 - 256 - 2 + 1]  # the size OpenAI trained with
    merges = [(first, second) for first, second in map(str.split, rules)]
    letters = _byte_letters()
    pieces = [*letters, *(letter + WORD_END for letter in letters), *("".join(pair) for pair in merges), *CLIP_SPECIALS]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CLIP_SPECIALS])
    return tokenizer


def _byte_letters() -> list[str]:
    """Visible letter of each byte, in the vocabulary's order: printable bytes first, as themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def bert_wordpiece(words_file: Path = BERT_WORDS) -> Tokenizer:
    """BERT's lower-case WordPiece; its special strings in a text become their ids, as in the official code."""
    words = words_file.read_text(encoding="utf-8").splitlines()
    tokenizer = _wordpiece({word: index for index, word in enumerate(words)})
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in BERT_SPECIALS])
    return tokenizer


def small_wordpiece(words: Iterable[str], pieces: Iterable[str] = ()) -> Tokenizer:
    """WordPiece over the given words and `pieces` such as "##ing", which spells all other words by letters.

    Ids: [PAD] 0, [UNK] 1, [CLS] 2, then ".", "?", characters at a word's start and inside it, the words, the pieces,
    and [SEP] as the largest: it ends a text, and CLIP pools at the largest id. In a text these names are plain words.
    """
    normalise = _bert_normalizer()
    clean = sorted({piece for word in words for piece in normalise.normalize_str(word).split()})
    splitter = pre_tokenizers.BertPreTokenizer()
    whole = sorted({piece for word in clean for piece, _ in splitter.pre_tokenize_str(word)})
    letters = sorted({letter for piece in whole for letter in piece} | set(_ascii_letters()))
    spelling = (*letters, *("##" + letter for letter in letters))
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", ".", "?", *spelling, *whole, *pieces, "[SEP]"])
    return _wordpiece({token: index for index, token in enumerate(tokens)})


def word_pieces(words: Iterable[str], count: int) -> list[str]:
    """About `count` pieces that encode the given words in few tokens; those inside a word begin with "##"."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = _bert_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=count, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    return sorted(tokenizer.get_vocab(with_added_tokens=False))


def write_vocabulary(texts: Iterable[str], file: Path) -> None:
    """Write a `tokenizer.json` whose whole words are those of `texts`; it spells all others."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small_wordpiece(word for text in texts for word in text.split()).save(str(file))


def write_english_vocabulary(required: Iterable[str], frequent: Sequence[str], file: Path, *, size: int) -> None:
    """Write a `tokenizer.json` of at most `size` tokens for English.

    It holds the words of the texts `required`, pieces that spell English, and in the remaining room the words of the
    texts `frequent`, in their order. ValueError where the required words do not fit.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    pieces = word_pieces(frequent, ENGLISH_PIECES)
    words = dict.fromkeys(word for text in required for word in text.split())
    room = size - vocabulary_size(small_wordpiece(words, pieces))
    if room < 0:
        raise ValueError(f"a vocabulary of {size} tokens has no room for all required words: {-room} do not fit")
    others = dict.fromkeys(word for text in frequent for word in text.split() if word not in words)
    small_wordpiece([*words, *[*others][:room]], pieces).save(str(file))


def vocabulary_size(tokenizer: Path | Tokenizer) -> int:
    """Number of tokens of a tokenizer, or of a `tokenizer.json`."""
    if isinstance(tokenizer, Path):
        tokenizer = Tokenizer.from_file(str(tokenizer))
    return int(tokenizer.get_vocab_size())


def _ascii_letters() -> Iterable[str]:
    return (character for code in range(33, 127) if (character := chr(code)) == character.lower())


def _bert_normalizer() -> normalizers.Normalizer:
    return normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = _bert_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def text_rules(
    tokenizer_file: Path,
    style: Literal["sentence", "phrases"],
    *,
    max_tokens: int,
    max_label_tokens: int | None = None,
    attention: Literal["label", "prompt"] = "label",
) -> TextRules:
    """Text rules of a tokenizer, its special tokens found by name."""
    ids = Tokenizer.from_file(str(tokenizer_file)).get_vocab()
    for names in (_BPE, _WORDPIECE):
        if all(name in ids for name in names):
            start, end, pad = (ids[name] for name in names)
            break
    else:
        raise ValueError(f"{tokenizer_file} has neither the special tokens {_BPE} nor {_WORDPIECE}")
    separators: tuple[int, ...] = ()
    if style == "phrases":
        if missing := [mark for mark in _SEPARATORS if mark not in ids]:
            raise ValueError(f"{tokenizer_file} has no token for {missing}, which separates phrases")
        separators = tuple(ids[mark] for mark in _SEPARATORS)
    return TextRules(
        style=style,
        max_tokens=max_tokens,
        max_label_tokens=max_label_tokens,
        attention=attention,
        start_id=start,
        end_id=end,
        pad_id=pad,
        separator_ids=separators,
    )
