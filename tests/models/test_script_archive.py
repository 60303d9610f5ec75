import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import UnreadableCheckpoint, UnsafeCheckpoint, checkpoints
from models.state_dict_map import as_torch


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.names = [1, 2, 3]
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def script(path: Path, module: nn.Module) -> None:
    torch.jit.script(module).save(str(path))


def test_every_tensor_of_a_scripted_module_is_read(tmp_path: Path) -> None:
    module = nn.Sequential(Inner(), Inner()).eval()
    script(tmp_path / "x.pt", module)
    found = as_torch(checkpoints.read(tmp_path / "x.pt").tensors)
    wanted = module.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)


def test_traced_module_is_read(tmp_path: Path) -> None:
    module = Inner().eval()
    torch.jit.trace(module, torch.randn(2, 3)).save(str(tmp_path / "x.pt"))
    assert checkpoints.read(tmp_path / "x.pt").tensors.keys() == module.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_dtypes_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    module = nn.Module()
    module.register_buffer("x", torch.tensor([[0, 1], [1, 1]]).to(dtype))
    script(tmp_path / "x.pt", module)
    value = as_torch(checkpoints.read(tmp_path / "x.pt").tensors)["x"]
    assert value.dtype == dtype
    assert torch.equal(value, module.x)


def test_views_of_one_storage_are_read_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    module = nn.Module()
    module.register_buffer("transposed", whole.T)
    module.register_buffer("part", whole[1:, 2:])
    script(tmp_path / "x.pt", module)
    found = as_torch(checkpoints.read(tmp_path / "x.pt").tensors)
    assert torch.equal(found["transposed"], whole.T)
    assert torch.equal(found["part"], whole[1:, 2:])


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def archive_of(path: Path, description: bytes, *, compress: bool = False) -> None:
    """A zip that looks like a TorchScript archive and holds this data.pkl and four floats."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x/constants.pkl", b"\x80\x02).")
        archive.writestr("x/data.pkl", description)
        archive.writestr("x/data/0", bytes(16))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_description_is_refused_and_not_executed(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "executed"
    archive_of(tmp_path / "x.pt", pickle.dumps({"weight": Call(os.mkdir, str(victim))}, protocol))
    with pytest.raises(UnsafeCheckpoint, match=r"mkdir.*nothing was executed"):
        checkpoints.read(tmp_path / "x.pt")
    assert not victim.exists()


@pytest.mark.parametrize("function", [eval, getattr, torch.load, torch.jit.load, __import__])
def test_names_that_only_look_harmless_are_refused(tmp_path: Path, function: Callable[..., Any]) -> None:
    archive_of(tmp_path / "x.pt", pickle.dumps(Call(function, "x"), 2))
    with pytest.raises(UnsafeCheckpoint):
        checkpoints.read(tmp_path / "x.pt")


def description(
    *,
    shape: str,
    stride: str,
    offset: int = 0,
    storage: str = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ",
) -> bytes:
    """Text pickle of a module with one tensor `x`."""
    return (
        "c__torch__\nNet\n)\x81}S'x'\nctorch._utils\n_rebuild_tensor_v2\n"
        f"({storage}I{offset}\n{shape}{stride}I00\nccollections\nOrderedDict\n)RtRsb."
    ).encode("latin-1")


def test_hand_written_description_is_read(tmp_path: Path) -> None:
    archive_of(tmp_path / "x.pt", description(shape="(I2\nI2\nt", stride="(I2\nI1\nt"))
    assert torch.equal(as_torch(checkpoints.read(tmp_path / "x.pt").tensors)["x"], torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ("(I2\nI3\nt", "(I3\nI1\nt", 0),  # larger than the storage
        ("(I2\nI2\nt", "(I2\nI1\nt", 1),  # shifted beyond its end
        ("(I2\nI2\nt", "(I4\nI1\nt", 0),  # steps beyond its end
        ("(I2\nI2\nt", "(I2\nI1\nt", -1),
        ("(I-2\nI-2\nt", "(I2\nI1\nt", 0),
        ("(I1000000\nI1000000\nt", "(I0\nI0\nt", 0),  # one number repeated into terabytes
        ("(I2\nt", "(I2\nI1\nt", 0),
        ("S'ab'\n", "(I2\nI1\nt", 0),
    ],
)
def test_tensor_outside_its_storage_is_refused(tmp_path: Path, shape: str, stride: str, offset: int) -> None:
    archive_of(tmp_path / "x.pt", description(shape=shape, stride=stride, offset=offset))
    with pytest.raises(UnreadableCheckpoint):
        checkpoints.read(tmp_path / "x.pt")


def test_compressed_archive_is_refused_before_it_grows(tmp_path: Path) -> None:
    archive_of(tmp_path / "x.pt", description(shape="(I2\nI2\nt", stride="(I2\nI1\nt"), compress=True)
    with pytest.raises(UnreadableCheckpoint, match="compressed"):
        checkpoints.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "text",
    [
        "c__torch__\nNet\n}S'__setstate__'\nNsb.",  # state set on the class, not on an object
        "c__torch__\nNet\n)\x81(N}S'__class__'\nNstb.",
        "ctorch._utils\n_rebuild_tensor_v2\n}S'_make'\nNsb.",
        "ctorch\nFloatStorage\n)R.",
        "I5\n.",
        ".",
    ],
)
def test_description_of_no_module_is_refused(tmp_path: Path, text: str) -> None:
    archive_of(tmp_path / "x.pt", text.encode("latin-1"))
    with pytest.raises(UnreadableCheckpoint):
        checkpoints.read(tmp_path / "x.pt")


def test_module_that_contains_itself_ends(tmp_path: Path) -> None:
    archive_of(tmp_path / "x.pt", b"c__torch__\nNet\n)\x81p0\n}S'me'\ng0\nsb.")
    with pytest.raises(UnreadableCheckpoint, match=r"more than .*me\.me\.me"):
        checkpoints.read(tmp_path / "x.pt")


def test_modules_shared_into_an_endless_tree_end(tmp_path: Path) -> None:
    text = b"c__torch__\nNet\n)\x81p0\n0"
    for level in range(1, 40):  # each module holds the one before twice
        text += b"c__torch__\nNet\n)\x81p%d\n}S'a'\ng%d\nsS'b'\ng%d\nsb0" % (level, level - 1, level - 1)
    archive_of(tmp_path / "x.pt", text + b"g39\n.")
    with pytest.raises(UnreadableCheckpoint, match="more than 20000 modules"):
        checkpoints.read(tmp_path / "x.pt")


def test_damaged_storage_is_noticed(tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("x", torch.full((1000,), 3.0))
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    data = bytearray(buffer.getvalue())
    start = data.index(torch.full((8,), 3.0).numpy().tobytes())
    data[start + 100] ^= 0xFF
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match="CRC"):
        checkpoints.read(tmp_path / "x.pt")
