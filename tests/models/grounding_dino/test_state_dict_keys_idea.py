"""The literal key table of IDEA-Research's files."""

import re

from models.grounding_dino import state_dict_keys_idea as keys

TABLES = [value for name, value in vars(keys).items() if name.isupper() and isinstance(value, dict)]


def test_no_key_of_ours_has_two_sources():
    ours = [key for table in TABLES for key in table.values()]
    assert len(set(ours)) == len(ours)


def test_both_sides_of_an_entry_have_as_many_numbers():
    for table in TABLES:
        for stored, key in table.items():
            assert len(re.findall(r"\{\}", stored)) == len(re.findall(r"\{\}", key)), stored


def test_markers_are_keys_of_the_tables():
    stored = {f"{key}{suffix}" for table in TABLES for key in table for suffix in ("", ".weight", ".bias")}
    assert set(keys.MARKERS) <= stored
    assert keys.PATCHES in stored
