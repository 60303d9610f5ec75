import unicodedata

from models.data.categories import CategoryNames


def test_names_that_differ_in_case_and_blanks_only_are_one_label_in_its_first_spelling():
    found = CategoryNames(["Dog", " dog ", "hot  dog", "Hot Dog\n", "cat"])
    assert found.names == ("Dog", "hot dog", "cat")
    assert (found.place("DOG"), found.place("cat"), found.place("bird")) == (0, 2, None)
    assert found.merged == 2


def test_one_name_in_two_forms_of_unicode_is_one_label():
    name = "café"
    found = CategoryNames([unicodedata.normalize(form, name) for form in ("NFC", "NFD")])
    assert len(found.names) == 1
