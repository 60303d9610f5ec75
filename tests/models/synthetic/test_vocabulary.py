from pathlib import Path

from models.synthetic.vocabulary import vocabulary_size, write_vocabulary
from models.tokenizers import text_rules
from server.contract.text import PromptTokenizer


def test_trained_words_are_whole_and_others_are_spelt(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    write_vocabulary(["zebra"], file)
    tokens = PromptTokenizer(file, text_rules(file, "phrases", max_tokens=77))
    assert len(tokens.from_labels(["zebra"])) == 4
    assert len(tokens.from_labels(["quux"])) == 3 + len("quux")
    assert text_rules(file, "sentence", max_tokens=77).end_id == vocabulary_size(file) - 1
