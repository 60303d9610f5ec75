"""Checks of a module of literal state-dict keys, the same for every container."""

import re


def _tables(keys):
    return [value for name, value in vars(keys).items() if name.isupper() and isinstance(value, dict)]


def no_key_of_ours_has_two_sources(keys):
    ours = [key for table in _tables(keys) for key in table.values()]
    assert len(set(ours)) == len(ours)


def both_sides_of_an_entry_have_as_many_numbers(keys):
    for table in _tables(keys):
        for stored, key in table.items():
            assert len(re.findall(r"\{\}", stored)) == len(re.findall(r"\{\}", key)), stored


def markers_are_keys_of_the_tables(keys):
    stored = {f"{key}{suffix}" for table in _tables(keys) for key in table for suffix in ("", ".weight", ".bias")}
    assert set(keys.MARKERS) <= stored
    assert keys.PATCHES in stored


CHECKS = (
    no_key_of_ours_has_two_sources,
    both_sides_of_an_entry_have_as_many_numbers,
    markers_are_keys_of_the_tables,
)
