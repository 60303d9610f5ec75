from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from models import tokenizers
from server.contract.text import PromptTokenizer


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return tokenizers.small_wordpiece(["Red", "fox", "car-taxi", "hot dog", "Café", "T-Rex"])


def test_standard_files_have_the_published_sizes() -> None:
    assert Tokenizer.from_file(str(tokenizers.standard_file("clip_bpe"))).get_vocab_size() == 49408
    assert Tokenizer.from_file(str(tokenizers.standard_file("bert_wordpiece"))).get_vocab_size() == 30522


def test_unknown_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=r"'gpt'.*bert_wordpiece"):
        tokenizers.standard_file("gpt")


def test_file_reads_back_as_it_was_built(tmp_path: Path, small: Tokenizer) -> None:
    small.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ids(again, "red foxes? CAFÉ.") == ids(small, "red foxes? CAFÉ.")


def test_known_words_are_one_token_in_any_case(small: Tokenizer) -> None:
    assert pieces(small, "RED Fox hot café") == ["red", "fox", "hot", "cafe"]


def test_unknown_words_are_spelt_and_nothing_is_unknown(small: Tokenizer) -> None:
    assert pieces(small, "redfox zoo") == ["red", "##f", "##o", "##x", "z", "##o", "##o"]
    printable = "".join(chr(code) for code in range(32, 127))
    assert "[UNK]" not in pieces(small, printable)


def test_separators_and_markers_have_their_places(small: Tokenizer) -> None:
    vocabulary = small.get_vocab()
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", ".", "?")] == [0, 1, 2, 3, 4]
    assert vocabulary["[SEP]"] == small.get_vocab_size() - 1 == max(vocabulary.values())


def test_marker_written_in_a_text_is_plain_text(small: Tokenizer) -> None:
    assert not {0, 1, 2, small.token_to_id("[SEP]")} & set(ids(small, "[SEP] a [CLS] b [PAD]"))


def test_same_words_give_the_same_file() -> None:
    one, two = (tokenizers.small_wordpiece(words) for words in (["a fox", "car"], ["car", "car", "fox", "a"]))
    assert one.to_str() == two.to_str()


def test_ids_of_the_published_bert_vocabulary_are_found():
    text = tokenizers.text_rules(tokenizers.standard_file("bert_wordpiece"), "phrases", max_tokens=256)
    assert (text.start_id, text.end_id, text.pad_id, text.separator_ids) == (101, 102, 0, (1012, 1029))


def test_ids_of_the_published_clip_vocabulary_are_found():
    text = tokenizers.text_rules(tokenizers.standard_file("clip_bpe"), "sentence", max_tokens=77)
    assert (text.start_id, text.end_id, text.pad_id, text.separator_ids) == (49406, 49407, 0, ())


def test_ids_of_a_small_vocabulary_are_found(tmp_path):
    tokenizer = tokenizers.small_wordpiece(["dog"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = tokenizers.text_rules(tmp_path / "tokenizer.json", "phrases", max_tokens=64)
    assert text.end_id == tokenizer.get_vocab_size() - 1


def test_vocabulary_without_special_tokens_is_refused(tmp_path):
    Tokenizer(models.WordLevel({"dog": 0}, unk_token="dog")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"CLS"):
        tokenizers.text_rules(tmp_path / "tokenizer.json", "phrases", max_tokens=64)


REQUIRED = ["dog", "cat", "red", "car", "kangaroo", "spoon", "a", "photo", "of"]


def test_an_english_vocabulary_keeps_required_words_whole_and_spells_the_rest(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    tokenizers.write_english_vocabulary(REQUIRED, ["marsupial", "wallaby"], file, size=400)
    read = Tokenizer.from_file(str(file))
    assert read.encode("red kangaroo").tokens == ["red", "kangaroo"]
    assert "[UNK]" not in read.encode("quixotic").tokens
    assert tokenizers.vocabulary_size(file) <= 400


def test_a_vocabulary_too_small_for_its_required_words_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no room"):
        tokenizers.write_english_vocabulary(REQUIRED, ["marsupial"], tmp_path / "tokenizer.json", size=50)


def test_trained_words_are_whole_and_others_are_spelt(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    tokenizers.write_vocabulary(["zebra"], file)
    tokens = PromptTokenizer(file, tokenizers.text_rules(file, "phrases", max_tokens=77))
    assert len(tokens.from_labels(["zebra"])) == 4
    assert len(tokens.from_labels(["quux"])) == 3 + len("quux")
    assert tokenizers.text_rules(file, "sentence", max_tokens=77).end_id == tokenizers.vocabulary_size(file) - 1
