"""Lists of a request, by one rule: repeated fields, commas, arrays; one text or several."""

import pytest
from pydantic import BaseModel, ValidationError

from server.request_fields import Names, RepeatedField, Sentences, Templates, Urls


class Lists(BaseModel):
    labels: Names = ()
    texts: Sentences = ()
    templates: Templates = ()
    image_urls: Urls = ()


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("dog,cat", ("dog", "cat")),
        ('["dog", "cat"]', ("dog", "cat")),
        (RepeatedField(("dog", "cat")), ("dog", "cat")),
        (RepeatedField(("dog,cat", '["a, b"]', "c")), ("dog", "cat", "a, b", "c")),
        (["dog,cat"], ("dog,cat",)),
        (("a. b", "c"), ("a. b", "c")),
        ("", ()),
    ],
)
def test_labels_are_listed_by_commas_by_repetition_or_as_an_array(value, labels):
    assert Lists(labels=value).labels == labels


def test_sentences_keep_their_commas_where_they_are_repeated_or_in_an_array():
    assert Lists(texts=RepeatedField(("a dog, wet", "a cat"))).texts == ("a dog, wet", "a cat")
    assert Lists(texts='["a dog, wet"]').texts == ("a dog, wet",)
    assert Lists(templates="a {}, a pet").templates == ("a {}, a pet",)
    assert Lists(image_urls="https://a.example/1,2.jpg").image_urls == ("https://a.example/1,2.jpg",)


@pytest.mark.parametrize("fields", [{"texts": "a dog, a cat"}, {"labels": "dog|cat"}, {"templates": "[{}]"}])
def test_text_that_could_be_several_is_refused_by_its_field(fields):
    with pytest.raises(ValidationError) as refusal:
        Lists(**fields)
    (fault,) = refusal.value.errors()
    assert fault["loc"] == tuple(fields)
    assert '["' in fault["msg"]


def test_items_of_a_list_in_a_text_are_checked_as_those_of_an_array():
    with pytest.raises(ValidationError, match="visible character"):
        Lists(labels='["dog", " "]')
    with pytest.raises(ValidationError, match="at most 1000 characters"):
        Lists(labels="x," * 3 + "y" * 1001)
