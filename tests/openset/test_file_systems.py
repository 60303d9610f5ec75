import fsspec
import pytest

from openset import file_systems
from openset.file_systems import is_address, open_address, read_remote


@pytest.mark.parametrize("name", ["s3://bucket/photos", "memory://a", "file:///photos", "simplecache::s3://b/a.jpg"])
def test_address_names_a_protocol(name):
    assert is_address(name)


@pytest.mark.parametrize(
    "name", ["photos", "/photos/a:b.jpg", r"C:\photos", "C:/photos", "-", "photos/**/*.jpg", "://a"]
)
def test_path_is_no_address(name):
    assert not is_address(name)


def test_path_at_an_address_has_no_protocol_and_no_slash_at_its_end(tmp_path):
    filesystem, path = open_address(f"file://{tmp_path}/")
    assert path == str(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"picture")
    assert read_remote(filesystem, tmp_path / "a.jpg") == b"picture"


def test_file_that_is_too_large_is_not_read_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(file_systems, "MOST_BYTES", 4)
    (tmp_path / "a.jpg").write_bytes(b"picture")
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_remote(fsspec.filesystem("file"), tmp_path / "a.jpg")


def test_error_of_a_protocol_is_one_of_the_system(tmp_path):
    class Broken:
        def open(self, path, mode):
            raise RuntimeError("no credentials")

    with pytest.raises(OSError, match="RuntimeError: no credentials"):
        read_remote(Broken(), tmp_path / "a.jpg")
