"""Lists in one text: split where that is sure, refused with both ways to write it where it is not."""

import json
from string import ascii_letters

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.contract.list_text import ListTextError, check_caption, split_names, split_sentences

NAME = st.text(ascii_letters + " -'", min_size=1).map(str.strip).filter(bool)


@pytest.mark.parametrize(
    "text", ["dog,cat", " dog , cat,", "dog\ncat", "dog,\r\ncat", '["dog", "cat"]', ' ["dog","cat"]']
)
def test_names_are_split_at_commas_and_line_breaks_or_read_from_an_array(text):
    assert split_names(text) == ["dog", "cat"]


@given(st.lists(NAME))
def test_names_joined_by_commas_come_back(names):
    assert split_names(", ".join(names)) == names


@given(st.lists(st.text()))
def test_array_holds_names_exactly_whatever_is_in_them(names):
    assert split_names(json.dumps(names)) == names
    assert split_sentences([json.dumps(names)]) == names


@pytest.mark.parametrize("text", ["dog;cat", "dog | cat", "dog. cat.", "dog\tcat", "dog. cat"])
def test_name_with_another_separator_is_refused_with_what_may_be_meant(text):
    with pytest.raises(ListTextError) as refusal:
        split_names(text)
    assert f"write {json.dumps([text])} for one" in str(refusal.value)
    assert '["dog", "cat"] for 2' in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["['dog', 'cat']", "[dog, cat]", '["dog", "cat"', '["dog", 3]', '[["dog"]]', "[" * 5000]
)
def test_damaged_array_is_refused(text):
    with pytest.raises(ListTextError, match="must be a JSON array of strings, like"):
        split_names(text)


def test_lone_sentence_with_commas_is_refused_with_both_ways_to_write_it():
    with pytest.raises(ListTextError) as refusal:
        split_sentences(["a puppy, a rocket"])
    assert 'write ["a puppy, a rocket"] for one, ["a puppy", "a rocket"] for 2' in str(refusal.value)


@pytest.mark.parametrize("texts", [["a puppy, brown", "a rocket"], ["a puppy"], ["a puppy, ", "b"], []])
def test_sentences_that_are_sure_stay_as_they_are(texts):
    assert split_sentences(texts) == texts


def test_lone_sentence_stays_where_its_parts_cannot_stand_alone():
    template = "a photo of a {}, a type of pet."
    assert split_sentences([template], is_one=lambda part: "{}" in part) == [template]
    with pytest.raises(ListTextError):
        split_sentences(["a {}, the {}"], is_one=lambda part: "{}" in part)


@pytest.mark.parametrize("caption", ["a dog. a cat.", "a man in red, sitting.", "a dog", "is it a dog, or a cat?"])
def test_caption_whose_phrases_end_is_taken(caption):
    assert check_caption(caption) == caption


def test_caption_that_lists_by_commas_is_refused_with_full_stops_in_their_place():
    with pytest.raises(ListTextError, match=r"write 'dog\. cat\.' for 2 phrases"):
        check_caption("dog,cat")


def test_long_text_is_shown_in_part():
    with pytest.raises(ListTextError) as refusal:
        split_names(";".join(["x" * 900] * 50))
    assert len(str(refusal.value)) < 600
