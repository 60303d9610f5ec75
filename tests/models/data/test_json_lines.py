from pathlib import Path

import pytest

from models.data.images import DataError
from models.data.json_lines import Lines, json_object


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    file = tmp_path / "records.jsonl"
    file.write_bytes('\ufeff{"a": 1}\r\n\n{"b": "ä"}\n[3]\n'.encode())
    return Lines(file)


def test_blank_lines_do_not_count_and_lines_keep_their_numbers(lines: Lines):
    assert len(lines) == 3
    assert lines.where(1).endswith("records.jsonl, line 3")
    assert (lines.entry(0), lines.entry(1)) == ({"a": 1}, {"b": "ä"})


def test_a_line_without_an_object_is_named(lines: Lines):
    with pytest.raises(DataError, match="line 4 holds a list; an object is expected"):
        lines.entry(2)
    with pytest.raises(DataError, match="here is no JSON"):
        json_object("{", "here")


def test_selected_lines_are_kept(lines: Lines):
    lines.select([1])
    assert (len(lines), lines.entry(0)) == (1, {"b": "ä"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        Lines(tmp_path / "none.jsonl")
