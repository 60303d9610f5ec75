"""The safetensors reader against the library's writer, and against headers that lie."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from models.safetensors_file import read_safetensors
from models.state_dict_map import as_torch

TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "x.safetensors"


def written(path, header, data=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@given(st.dictionaries(st.text(max_size=6), st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 3), max_size=3))))
def test_what_the_library_writes_is_read(path, entries):
    entries.pop("__metadata__", None)
    tensors = {name: (torch.rand(shape) * 9).to(dtype) for name, (dtype, shape) in entries.items()}
    path.write_bytes(save(tensors, {"format": "pt"}))
    found = as_torch(read_safetensors(path))
    assert found.keys() == tensors.keys()
    for name, value in found.items():
        assert value.dtype == tensors[name].dtype
        assert torch.equal(value, tensors[name])


def entry(**changes):
    return {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (entry(data_offsets=[0, 17]), "bytes 0 to 17"),
        (entry(data_offsets=[16, 32]), "beyond the file"),
        (entry(data_offsets=[-16, 0]), "bytes -16 to 0"),
        (entry(shape=[-2, -2]), "shape"),
        (entry(shape=[2.0, 2]), "shape"),
        (entry(shape=[2**62, 2**62]), "shape"),
        (entry(shape="ab"), "shape"),
        (entry(shape=5), "malformed"),
        (entry(dtype="F8_E4M3"), "F8_E4M3"),
        (entry(dtype=["F32"]), "malformed"),
        ({"x": 5}, "malformed"),
        ({"x": {}}, "malformed"),
        ([], "no object"),
        (b'{"x":{},"x":{}}', "repeats a name"),
        (b"[" * 200_000, "nested too deep"),
        (b"{", "Expecting"),
        (b"\xff", "decode"),
    ],
)
def test_header_that_lies_is_refused(path, header, fault):
    with pytest.raises(ValueError, match=fault):
        read_safetensors(written(path, header))


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\0" * 7, (2**40).to_bytes(8, "little") + b"{}"])
def test_file_without_a_header_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        read_safetensors(path)
