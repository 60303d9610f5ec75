import json
from pathlib import Path

import pytest

from models.data.captions import open_captions
from models.data.images import DataError
from tests.models.data import annotated_sets as sets


def test_a_folder_pairs_pictures_with_text_files(tmp_path: Path):
    found = open_captions(sets.captions(tmp_path / "set"), None)
    assert len(found) == 8
    assert found[1].captions == ("a green square", "a blue square")
    assert found[1].picture.open().size == (80, 60)


def test_a_picture_without_a_text_file_is_named_or_skipped(tmp_path: Path):
    folder = sets.captions(tmp_path / "set")
    (folder / "3.txt").unlink()
    with pytest.raises(DataError, match=r"3\.png has no caption: 3\.txt is expected beside it"):
        open_captions(folder, None)
    assert len(open_captions(folder, None, skip=True)) == 7


def test_a_tsv_with_open_clips_columns_is_read(tmp_path: Path):
    sets.write_pictures(tmp_path / "pictures", 2)
    file = tmp_path / "set.tsv"
    file.write_text('filepath\ttitle\n0.png\ta "red" square\n1.png\tzwei Quadrate, grün\n', encoding="utf-8")
    found = open_captions(file, tmp_path / "pictures")
    assert [record.captions for record in (found[0], found[1])] == [('a "red" square',), ("zwei Quadrate, grün",)]
    assert found[0].picture.open().size == (80, 60)


def test_columns_may_be_told(tmp_path: Path):
    file = tmp_path / "set.csv"
    file.write_text('where,said\n"0.png","one, two"\n')
    found = open_captions(file, tmp_path, picture_column="where", caption_column="said")
    assert found[0].captions == ("one, two",)
    with pytest.raises(DataError, match=r"line 1 has none of \['filepath'"):
        open_captions(file, tmp_path)


def test_json_lines_have_one_caption_or_several(tmp_path: Path):
    file = tmp_path / "set.jsonl"
    file.write_text(
        json.dumps({"image": "0.png", "captions": ["a", " ", "b"]})
        + "\n"
        + json.dumps({"file_name": "1.png", "text": "c"})
        + "\n"
    )
    found = open_captions(file, None)
    assert [record.captions for record in (found[0], found[1])] == [("a", "b"), ("c",)]
    assert found[0].picture.where == str(tmp_path / "0.png")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png", "caption": ""}', "line 2: the caption is empty"),
        ('{"image": "a.png", "caption": 7}', "line 2: caption is 7; a text or a list of texts is expected"),
        ('{"image": "", "caption": "a"}', "line 2: picture is ''; a path is expected"),
        ('{"image": "a.png"}', "line 2 has none of"),
        ("[1]", "line 2 holds a list"),
    ],
)
def test_a_faulty_line_is_named_or_skipped(tmp_path: Path, line: str, message: str):
    file = tmp_path / "set.jsonl"
    file.write_text(f'{{"image": "a.png", "caption": "b"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        open_captions(file, None)
    assert len(open_captions(file, None, skip=True)) == 1


def test_a_tsv_line_of_another_length_is_named(tmp_path: Path):
    (tmp_path / "set.tsv").write_text("filepath\ttitle\na.png\n")
    with pytest.raises(DataError, match=r"line 2 has 1 columns, the header 2"):
        open_captions(tmp_path / "set.tsv", None)


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="neither a folder nor a file in"):
        open_captions(tmp_path / "set.parquet", None)


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path):
    folder = sets.captions(tmp_path / "set", 1)
    (folder / "0.txt").write_text("a red square", encoding="utf-8-sig")
    (tmp_path / "set.tsv").write_text("filepath\ttitle\n0.png\ta red square\n", encoding="utf-8-sig")
    assert open_captions(folder, None)[0].captions == ("a red square",)
    assert open_captions(tmp_path / "set.tsv", folder)[0].captions == ("a red square",)


@pytest.mark.parametrize("text", [b"", b" \n\n", b"\xff\xfe"])
def test_a_faulty_text_file_is_named_or_left_out(tmp_path: Path, text: bytes):
    folder = sets.captions(tmp_path / "set", 3)
    (folder / "1.txt").write_bytes(text)
    with pytest.raises(DataError, match=r"1\.txt"):
        open_captions(folder, None)
    found = open_captions(folder, None, skip=True)
    assert (len(found), found.faults.total) == (2, 1)


def test_hidden_pictures_are_passed_over(tmp_path: Path):
    folder = sets.captions(tmp_path / "set", 2)
    for name in ("._0.png", ".ipynb_checkpoints/0.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    assert len(open_captions(folder, None)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('filepath,title\na.png,"first\nsecond"\n', "line 2 cannot be split into columns"),
        ("filepath,title,title\na.png,b,c\n", "line 1 has the column 'title' more than once"),
        ("filepath;title\na.png;b\n", "line 1 has none of"),
        (f"filepath,title\na.png,{'x' * 200_000}\n", "line 2 cannot be split into columns"),
    ],
)
def test_a_table_that_would_be_misread_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_captions(tmp_path / "set.csv", None)
