"""Files that are found in place of weights are told for what they are, whatever they are called."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from models import UnreadableCheckpoint, checkpoints
from models.file_kinds import is_safetensors, other_kind

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 605247071\n"


def picture():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, file)
    return file.getvalue()


TENSORS = save({"a": torch.zeros(1000)})
KINDS = {
    "pointer": (POINTER, "a Git LFS pointer, not the weights: run `git lfs pull`"),
    "page": (b"\n<!DOCTYPE html><html><title>Log in</title>", "a web page, not the weights"),
    "page with a mark": (b"\xef\xbb\xbf<HTML>", "a web page, not the weights"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "json": (b'{"error": "Repository is gated"}', "a JSON document, not the weights: it says 'Repository is gated'"),
    "list": (b"[1, 2]", "a JSON document"),
    "text": (b"404: Not Found\n", "a text, not weights; it begins with '404: Not Found"),
    "empty": (b"", "an empty file: download it again"),
    "zeros": (bytes(5000), "a file of zeros"),
    "gzip": (gzip.compress(b"x"), "a gzip file"),
    "tar": (tar(), "a tar archive"),
    "picture": (picture(), "a picture"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "cut zip": (zipped()[:-100], "cut short: the end of a zip is missing"),
    "cut tensors": (TENSORS[:-100], f"cut short: {len(TENSORS) - 100} of {len(TENSORS)} bytes are there"),
    "cut header": (TENSORS[:20], "cut short: its header has"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("content", "told"), KINDS.values(), ids=KINDS)
def test_file_is_told_for_what_it_is(tmp_path, content, told, name):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, *([tmp_path] if name != "x.pth" and name != "x.safetensors" else [])):
        with pytest.raises(UnreadableCheckpoint) as refusal:
            checkpoints.read(path)
        assert f"{tmp_path / name} is {told}" in str(refusal.value)


def test_container_is_known_by_its_content(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        assert np.array_equal(checkpoints.read(tmp_path / name).tensors["a"], np.ones(2))
    assert is_safetensors(tmp_path / "x.pth")
    assert not is_safetensors(tmp_path / "x.safetensors")


def test_weights_are_of_no_other_kind(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "new.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert [other_kind(path) for path in tmp_path.iterdir()] == [None] * 3


@pytest.mark.parametrize("header", [b"{" * 5000, b"[]", b'{"a": {"data_offsets": [0, "x"]}}', b'{"a": 7}'])
def test_header_of_anything_is_refused_by_the_reader(tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UnreadableCheckpoint, match=r"x\.safetensors"):
        checkpoints.read(tmp_path / "x.safetensors")


def test_pipe_and_folder_are_no_files(tmp_path):
    with pytest.raises(UnreadableCheckpoint, match="is no file"):
        checkpoints.read("/dev/null")


def test_zip_of_text_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("a/readme", "x")
    with pytest.raises(UnreadableCheckpoint, match=r"holds 0 files data\.pkl"):
        checkpoints.read(tmp_path / "x.pth")
