"""The README stays true where a test can tell: the settings it lists, the files and commands it names."""

import re
from pathlib import Path

import pytest

from models.registry import FAMILIES
from server.settings import markdown_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = (ROOT / "openset/README.md").read_text(encoding="utf-8")


def test_table_of_settings_is_what_the_code_says():
    assert f"\n\n{markdown_table()}\n\n" in README


NAMED = set(re.findall(r"(?:openset|server|models|tests|export)/[\w./-]*\w", README + PYTHON))


@pytest.mark.parametrize("path", sorted(NAMED))
def test_named_file_exists(path):
    assert (ROOT / path).exists() or list(ROOT.glob(path + "*"))


def test_every_family_has_its_licence_told():
    for family in FAMILIES.values():
        for licence in family.LICENCES.values():
            assert licence.split()[0] in README
