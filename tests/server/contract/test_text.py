"""Prompts: spans by construction, one attention block a label, nothing cut silently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from models.tokenizers import standard_file
from server.contract.manifest import BundleError, TextRules
from server.contract.text import (
    PromptError,
    PromptTokenizer,
    PromptTooLong,
    SentenceTokenizer,
    clean_sentence,
    pad_prompts,
    token_bucket,
)

RULES = TextRules(style="phrases", max_tokens=64, start_id=101, end_id=102, pad_id=0, separator_ids=(1012, 1029))
CLIP_RULES = TextRules(style="sentence", max_tokens=77, start_id=49406, end_id=49407, pad_id=0)
PROMPT_RULES = RULES.model_copy(update={"attention": "prompt"})
# A label has a letter, and each character becomes one token at most: six labels with their separators always fit.
MOST_LABELS = 6
AROUND = st.text("abc xyzÄß-'", max_size=((RULES.max_tokens - 2) // MOST_LABELS - 2) // 2)
LABEL = st.builds("{}{}{}".format, AROUND, st.sampled_from("abcxyzÄß"), AROUND)
LABELS = st.lists(LABEL, min_size=1, max_size=MOST_LABELS)


@pytest.fixture(scope="module")
def prompts():
    return PromptTokenizer(standard_file("bert_wordpiece"), RULES)


@pytest.fixture(scope="module")
def shared():
    """Prompts whose tokens all see each other."""
    return PromptTokenizer(standard_file("bert_wordpiece"), PROMPT_RULES)


@pytest.fixture(scope="module")
def sentences():
    return SentenceTokenizer(standard_file("clip_bpe"), CLIP_RULES)


def test_labels_make_the_official_caption(prompts):
    assert prompts.from_labels(["a cat", "a remote control"]).input_ids.tolist() == [
        101, 1037, 4937, 1012, 1037, 6556, 2491, 1012, 102,
    ]  # fmt: skip


def test_label_list_and_caption_give_the_same_tokens(prompts):
    assert prompts.from_labels(["a dog", "a bicycle"]).key == prompts.from_caption("a dog. a bicycle").key


@pytest.mark.parametrize(
    "caption", ["a dog. a bicycle.", "a dog.a bicycle", " a dog . a bicycle . ", "A Dog..a BICYCLE."]
)
def test_separators_and_final_period_do_not_change_a_caption(prompts, caption):
    assert prompts.from_caption(caption).key == prompts.from_caption("a dog. a bicycle.").key


def test_caption_phrases_carry_their_characters(prompts):
    caption = "  A dog. is there a bicycle? yes"
    phrases = prompts.from_caption(caption).labels
    assert [phrase.text for phrase in phrases] == ["A dog", "is there a bicycle", "yes"]
    assert [caption[phrase.start : phrase.end] for phrase in phrases] == ["A dog", "is there a bicycle", "yes"]


def test_case_and_duplicates_are_kept(prompts):
    prompt = prompts.from_labels(["Dog", "dog", "sports car", "car"])
    assert [label.text for label in prompt.labels] == ["Dog", "dog", "sports car", "car"]
    assert [prompt.input_ids[prompt.token_label == i].tolist() for i in (0, 1, 3)] == [[3899], [3899], [2482]]


@given(labels=LABELS)
def test_a_token_looks_at_its_own_label_only(prompts, labels):
    prompt = prompts.from_labels(labels)
    for label in range(len(labels)):
        own = np.flatnonzero(prompt.token_label == label)
        group = np.arange(own[0], own[-1] + 2)  # and its separator
        assert np.array_equal(np.flatnonzero(prompt.self_attention_mask[own[0]]), group)
        assert prompt.position_ids[group].tolist() == list(range(len(group)))


@given(labels=LABELS)
def test_in_a_shared_prompt_all_tokens_see_each_other_at_running_positions(prompts, shared, labels):
    apart, together = prompts.from_labels(labels), shared.from_labels(labels)
    assert together.self_attention_mask.all()
    assert together.position_ids.tolist() == list(range(len(together)))
    for same in ("input_ids", "token_label", "token_span"):
        assert np.array_equal(getattr(together, same), getattr(apart, same))


def test_in_a_shared_prompt_a_label_ends_with_the_first_token_of_its_last_character(prompts, shared):
    korean = ["리모컨", "개 "]  # the tokeniser spells a syllable letter by letter: seven letters, then two
    assert prompts.from_labels(korean).token_label.tolist() == [-1, *[0] * 7, -1, *[1] * 2, -1, -1]
    assert shared.from_labels(korean).token_label.tolist() == [-1, *[0] * 5, -1, -1, -1, 1, -1, -1, -1]


def test_shared_prompt_has_text_features_of_its_own(prompts, shared):
    assert shared.from_labels(["a dog"]).key != prompts.from_labels(["a dog"]).key
    assert shared.from_labels(["a dog"]).key == shared.from_caption("A dog.").key


@given(labels=LABELS, extra=st.integers(0, 20))
def test_padding_looks_at_itself_only_and_has_no_label(prompts, shared, labels, extra):
    for tokenizer in (prompts, shared):
        prompt = tokenizer.from_labels(labels)
        size, length = len(prompt), len(prompt) + extra
        batch = pad_prompts([prompt], length)
        assert batch["text_mask"][0].sum() == size
        assert np.array_equal(batch["self_attention_mask"][0, size:], np.eye(length, dtype=bool)[size:])
        assert not batch["self_attention_mask"][0, :size, size:].any()
        assert (batch["token_label"][0, size:] == -1).all()


def test_a_batch_says_which_label_each_token_belongs_to(prompts):
    batch = pad_prompts([prompts.from_labels(["dog", "red car"]), prompts.from_labels(["cat"])], 8)
    assert batch["token_label"].dtype == np.int64
    assert batch["token_label"].tolist() == [[-1, 0, -1, 1, 1, -1, -1, -1], [-1, 0, -1, -1, -1, -1, -1, -1]]


@pytest.mark.parametrize("caption", ["", "   ", " . . ", "???"])
def test_empty_caption_is_refused(prompts, caption):
    with pytest.raises(PromptError, match="names nothing"):
        prompts.from_caption(caption)


@pytest.mark.parametrize("labels", [[], ["dog", ""], ["\u200b"]])
def test_empty_label_is_refused(prompts, labels):
    with pytest.raises(PromptError):
        prompts.from_labels(labels)


def test_prompt_over_the_limit_is_refused_not_cut(prompts):
    with pytest.raises(PromptTooLong, match="the model reads 64"):
        prompts.from_labels(["dog"] * 40)


def test_label_longer_than_the_model_knows_positions_is_refused():
    rules = RULES.model_copy(update={"max_label_tokens": 4})
    prompts = PromptTokenizer(standard_file("bert_wordpiece"), rules)
    prompts.from_labels(["a red dog"] * 5)
    with pytest.raises(PromptTooLong, match="'a very red dog' takes 5 tokens, the model reads 4"):
        prompts.from_labels(["dog", "a very red dog"])


def test_sentence_over_the_limit_is_refused_not_cut(sentences):
    with pytest.raises(PromptTooLong, match="the model reads 77"):
        sentences.encode(["dog " * 76])


@pytest.mark.parametrize("text", ["\x00", "&nbsp;"])
def test_sentence_without_a_word_is_refused(sentences, text):
    with pytest.raises(PromptError, match="has no word the model can read"):
        sentences.encode(["dog", text])


def test_sentences_are_padded_to_the_longest(sentences):
    ids = sentences.encode(["a", "a cat"])
    assert ids.tolist() == [[49406, 320, 49407, 0], [49406, 320, 2368, 49407]]


def test_sentence_is_cleaned_as_the_official_tokeniser_does():
    assert clean_sentence("  A &amp;amp; B\n\tâ€” C ", lower_case=True) == "a & b — c"


def test_token_bucket_is_the_next_size():
    assert [token_bucket(n, (16, 32)) for n in (3, 16, 17, 40)] == [16, 16, 32, 40]


def test_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer file"):
        SentenceTokenizer(tmp_path / "tokenizer.json", CLIP_RULES)


@pytest.mark.parametrize("text", ["a" * 40, "é" + "a" * 40])
def test_text_that_a_pattern_of_the_tokenizer_gives_up_is_named(tmp_path, text):
    file = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"([aé]+)+$"), "removed", invert=True)
    tokenizer.save(str(file))
    sentences, prompts = SentenceTokenizer(file, CLIP_RULES), PromptTokenizer(file, RULES)
    assert len(prompts.from_labels(["aaa"])) == 4
    for ask in (sentences.encode, sentences.readings, prompts.from_labels):
        if ask != sentences.readings or not text.isascii():
            with pytest.raises(PromptError, match=r"cannot be split into tokens .*retry-limit"):
                ask([text + "!"])
