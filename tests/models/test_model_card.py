"""Licences are read from what lies beside the weights, never assumed."""

import pytest

from models.model_card import licence_of, spdx_name

CARD = "---\nlanguage: en\n{}\ntags:\n- vision\n---\n# A model\nlicense: not-this\n"


@pytest.mark.parametrize(
    ("line", "licence"),
    [
        ("license: mit", "MIT"),
        ("license: apache-2.0 # as the code", "Apache-2.0"),
        ('license: "cc-by-nc-4.0"', "CC-BY-NC-4.0"),
        ("license:\n- mit\n- apache-2.0", "MIT or Apache-2.0"),
        ("license: [mit, apache-2.0]", "MIT or Apache-2.0"),
        ("license: other\nlicense_name: apple-amlr\nlicense_link: LICENSE", "apple-amlr"),
        ("license: other", "other"),
        ("license: openrail", "openrail"),
        ("license:", None),
        ("licences: mit", None),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_model_card_tells_the_licence(tmp_path, line, licence, ends):
    (tmp_path / "README.md").write_bytes(CARD.format(line).replace("\n", ends).encode())
    assert licence_of(tmp_path) == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("MIT License\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy", "MIT"),
        ("   Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007", "GPL-3.0"),
        ("All rights reserved.", "see LICENSE"),
        ("", None),
    ],
)  # fmt: skip
def test_licence_file_tells_it_where_nothing_else_does(tmp_path, text, licence):
    (tmp_path / "LICENSE").write_text(text)
    assert licence_of(tmp_path) == licence
    assert licence_of(tmp_path, {"license": "mit"}) == "MIT"


def test_card_without_a_licence_and_no_card_tell_none(tmp_path):
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"\xff\xfe no card")
    assert licence_of(tmp_path, {"license": 7}) is None


def test_name_is_short_and_one_line():
    assert spdx_name("a\nb " + "x" * 1000) == "a b " + "x" * 96
    assert spdx_name("a\x1b[2Jb \ud83d") == "a [2Jb"
