"""Files beside weights: read where they are there, refused by name where they are damaged."""

import json

import pytest

from models import UnreadableCheckpoint
from models.files_beside import FilesBeside, read_json


def test_folder_without_any_describes_nothing(tmp_path):
    assert FilesBeside.of(tmp_path) == FilesBeside()


def test_processor_is_found_under_both_names(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": 1}')
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": 2}, "processor_class": "x"}')
    found = FilesBeside.of(tmp_path).processors
    assert found == (("preprocessor_config.json", {"size": 1}), ("processor_config.json", {"size": 2}))


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN', b"{" + b" " * (33 * 2**20)]
)
def test_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=name):
        FilesBeside.of(tmp_path)


def test_image_processor_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "processor_config.json").write_text('{"image_processor": 7}')
    with pytest.raises(UnreadableCheckpoint, match="image_processor is 7"):
        FilesBeside.of(tmp_path)


def test_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(tmp_path / "x.json") == {"a": 1}
