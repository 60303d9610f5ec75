"""The README stays true where a test can tell: the settings it lists, the files and commands it names."""

import re
from pathlib import Path

import pytest

from models.registry import FAMILIES
from server.settings import Settings, shown_default

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_of_settings_is_what_the_code_says():
    rows = "\n".join(
        f"| `{name}` | {shown_default(field.get_default())} | {field.description} |"
        for name, field in Settings.model_fields.items()
    )
    _, _, table = README.partition("| setting | default | when to turn it |\n| --- | --- | --- |\n")
    assert table.partition("\n\n")[0] == rows


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:server|models|tests|export)/[\w./-]*\w", README))))
def test_named_file_exists(path):
    assert (ROOT / path).exists() or list(ROOT.glob(path + "*"))


def test_every_family_has_its_licence_told():
    for family in FAMILIES.values():
        for licence in family.weights.LICENCES.values():
            assert licence.split()[0] in README
