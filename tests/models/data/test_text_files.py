import os
from pathlib import Path

import pytest

from models.data.images import DataError
from models.data.text_files import Lines, RepeatedKeys, json_object, parse_json, parse_yaml, read_text


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


MARK = "\ufeff".encode()


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(MARK + "ein Käfer".encode())
    assert read_text(tmp_path / "a.txt") == "ein Käfer"
    assert json_object(MARK + b'{"a": 1}', "here") == {"a": 1}
    (tmp_path / "a.jsonl").write_bytes(MARK + b'\n{"a": 1}\n')
    assert Lines(tmp_path / "a.jsonl").entry(0) == {"a": 1}


def test_a_pipe_or_a_folder_is_no_file_of_lines(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", tmp_path):
        with pytest.raises(DataError, match="is no regular file"):
            Lines(path)


def test_a_line_or_a_file_of_gigabytes_is_named(tmp_path: Path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="line 1, has more than 67108864 bytes"):
        Lines(tmp_path / "sparse")
    with pytest.raises(DataError, match="sparse cannot be read: it has 1099511627776 bytes"):
        read_text(tmp_path / "sparse")


@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_a_text_that_may_have_no_end_is_named(tmp_path: Path, path: str):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=f"{path} cannot be read: it is no regular file"):
        read_text(tmp_path / path)


def test_other_encodings_are_named(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("ein Käfer".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.txt is no UTF-8"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"b\.txt cannot be read: No such file"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(DataError, match="cannot be read: it is no regular file"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("1" * 5000, "is no JSON: Exceeds the limit"),
        ("", "is no JSON"),
        ('{"a": 1}}', "is no JSON: Extra data"),
        (b"\xff", "is no UTF-8"),
    ],
)
def test_what_is_no_json_is_named(text: str | bytes, message: str):
    with pytest.raises(DataError, match=f"^here .*{message}"):
        parse_json(text, "here")


def test_objects_with_a_repeated_key_are_marked_and_refused_as_a_whole():
    data = parse_json('[{"a": 1, "a": 2}, {"a": 1, "b": 1}]', "here")
    assert [isinstance(one, RepeatedKeys) for one in data] == [True, False]
    with pytest.raises(DataError, match="here: a key occurs twice"):
        json_object('{"a": 1, "b": 2, "a": 3}', "here")


@pytest.mark.parametrize(
    "value",
    ["2020-13-45", "!!int ''", "!!float x", "!!timestamp x", "!!bool x", "!!binary x", "9" * 5000, "[" * 5000, "!x y"],
)
def test_yaml_whose_values_do_not_fit_is_named(value: str):
    with pytest.raises(DataError, match=r"^here is no usable YAML: ."):
        parse_yaml(f"a: 1\nb: {value}\n", "here")


@pytest.mark.parametrize("text", ["a: 1\na: 2", "b:\n  0: x\n  0: y", "[{a: 1, a: 1}]"])
def test_yaml_with_a_key_twice_is_refused(text: str):
    with pytest.raises(DataError, match=r"here is no usable YAML: the key '[a0]' occurs twice"):
        parse_yaml(text, "here")


def test_yaml_may_have_equal_keys_of_other_types_and_aliases():
    assert parse_yaml("1: a\n'1': b\nc: &x [1]\nd: *x", "here") == {1: "a", "1": "b", "c": [1], "d": [1]}
