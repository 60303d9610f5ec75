"""Files of `torch.save` in both containers, as PyTorch reads them, and hostile ones."""

import argparse
import contextlib
import datetime
import pathlib
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint, checkpoints
from models.state_dict_map import as_torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool]
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])


def saved(path, data, zipped=True):
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    return path


@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 4), max_size=4), zipped=st.booleans())
def test_tensor_of_any_dtype_and_shape_is_read_as_pytorch_reads_it(tmp_path_factory, dtype, shape, zipped):
    value = torch.randint(0, 2, shape).to(dtype)
    tensors = {
        "plain": value,
        "transposed": value.T if value.ndim == 2 else value,
        "half": value[..., :1] if shape else value,
    }
    path = saved(tmp_path_factory.getbasetemp() / f"any-{zipped}.pt", tensors, zipped)
    found, wanted = as_torch(checkpoints.read(path).tensors), torch.load(path, weights_only=True)
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name])


BESIDE = {
    "arguments": argparse.Namespace(lr=1e-4, dataset=pathlib.Path("/data"), nested=argparse.Namespace(a=[1, 2])),
    "numpy scalars": {"best": np.float64(0.5), "epoch": np.int64(3), "lr": np.float32(1)},
    "array": np.arange(4),
    "standard library": {
        "when": datetime.datetime(2026, 1, 2),
        "seen": {1, 2},
        "counts": defaultdict(int, a=1),
        "z": 2j,
    },
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1.0}]},
    "ordered": OrderedDict(a=OrderedDict(b=1)),
    "plain": {"epoch": 3, "name": "run", "flags": (True, None), "deep": [[["x"]]]},
}


@BOTH
@pytest.mark.parametrize("key", ["model", "state_dict"])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_values_beside_the_weights_are_passed_over(tmp_path, beside, key, zipped):
    weights = nn.Linear(3, 2).state_dict()
    found = as_torch(
        checkpoints.read(saved(tmp_path / "x.pth", {key: weights, "args": beside, "epoch": 1}, zipped)).tensors
    )
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_parameters_and_shared_tensors_are_read(tmp_path):
    weight = nn.Parameter(torch.randn(2, 2))
    found = as_torch(
        checkpoints.read(saved(tmp_path / "x.pt", {"a": weight, "b": weight, "c": weight.data[1]})).tensors
    )
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)
    assert torch.equal(found["c"], weight[1])


def test_class_of_a_program_is_refused_with_the_lines_that_strip_it(tmp_path):
    path = tmp_path / "x.pt"
    code = (
        "import torch\nclass Settings: pass\n"
        f"torch.save({{'model': {{'a': torch.zeros(1)}}, 'settings': Settings()}}, {str(path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(UnsafeCheckpoint, match=r"__main__\.Settings(.|\n)*torch\.save\(checkpoint\['model'\], path\)"):
        checkpoints.read(path)


def rewritten(path, change):
    """The zip with its records changed by `change(name, data)`, uncompressed."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda name, data: data[:-1] if name.endswith("data/0") else data, "is damaged or no checkpoint"),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "big-endian"),
        (lambda name, data: b"" if name.endswith("data.pkl") else data, "is damaged or no checkpoint"),
    ],
)
def test_record_that_does_not_fit_is_refused(tmp_path, change, told):
    path = rewritten(saved(tmp_path / "x.pt", {"a": torch.arange(4.0)}), change)
    with pytest.raises(UnreadableCheckpoint, match=told):
        checkpoints.read(path)


def test_compressed_storage_is_refused_before_it_grows(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.zeros(10**6)})
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if "data/" in name else zipfile.ZIP_STORED)
    with pytest.raises(UnreadableCheckpoint, match="is compressed"):
        checkpoints.read(path)


@BOTH
@given(data=st.data())
def test_damaged_file_is_read_or_refused(tmp_path_factory, zipped, data):
    path = saved(
        tmp_path_factory.getbasetemp() / f"damaged-{zipped}.pt", {"a": torch.arange(6.0), "n": np.float64(1)}, zipped
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        checkpoints.read(path)
