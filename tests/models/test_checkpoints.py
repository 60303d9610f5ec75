import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint, checkpoints
from models.state_dict_map import as_torch
from models.stored_arrays import Array

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.victim),)


def equal(arrays: dict[str, Array], wanted: dict[str, Tensor]) -> bool:
    found = as_torch(arrays)
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_plain_state_dict_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt")
    assert equal(checkpoints.read(tmp_path / "x.pt").tensors, TENSORS)


def test_old_container_without_zip_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert equal(checkpoints.read(tmp_path / "x.pt").tensors, TENSORS)


def test_tensors_under_model_are_unwrapped(tmp_path: Path) -> None:
    torch.save({"model": TENSORS, "epoch": 3}, tmp_path / "x.pth")
    assert equal(checkpoints.read(tmp_path / "x.pth").tensors, TENSORS)


def test_module_prefix_is_stripped_only_when_all_names_have_it(tmp_path: Path) -> None:
    prefixed = {f"module.{name}": value for name, value in TENSORS.items()}
    torch.save({"model": prefixed}, tmp_path / "all.pth")
    torch.save({"model": prefixed | {"c": torch.zeros(1)}}, tmp_path / "some.pth")
    assert equal(checkpoints.read(tmp_path / "all.pth").tensors, TENSORS)
    assert "module.b" in checkpoints.read(tmp_path / "some.pth").tensors


def test_folder_of_one_safetensors_is_read_with_its_config(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    stored = checkpoints.read(tmp_path)
    assert equal(stored.tensors, TENSORS)
    assert stored.config == {"model_type": "clip"}
    assert checkpoints.read(tmp_path / "model.safetensors").config == stored.config


def test_folder_of_shards_is_read(tmp_path: Path) -> None:
    names = list(TENSORS)
    for number, name in enumerate(names):
        save_file({name: TENSORS[name]}, tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert equal(checkpoints.read(tmp_path).tensors, TENSORS)


def test_folder_of_pickled_weights_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert equal(checkpoints.read(tmp_path).tensors, TENSORS)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(UnreadableCheckpoint, match=r"gone\.safetensors"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "x" * 5000])
def test_shard_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UnsafeCheckpoint, match="plain file name"):
        checkpoints.read(folder)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match="does not exist"):
        checkpoints.read(tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint, match="holds no weights"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
def test_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    victim = tmp_path / "executed"
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1), "b": Hostile(victim)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpoint, match="mkdir"):
        checkpoints.read(path)
    assert not victim.exists()


def test_hostile_bare_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    victim = tmp_path / "executed"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Hostile(victim)))
    with pytest.raises(CheckpointError):
        checkpoints.read(tmp_path / "x.pt")
    assert not victim.exists()


def test_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(UnsafeCheckpoint, match="Linear"):
        checkpoints.read(tmp_path / "x.pt")


def test_what_is_no_state_dict_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"epoch \(int\)"):
        checkpoints.read(tmp_path / "x.pt")
    torch.save([torch.zeros(1)], tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint, match="list"):
        checkpoints.read(tmp_path / "x.pt")


def write_pickle(path: Path) -> None:
    torch.save(TENSORS, path)


def write_old_pickle(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save_file(TENSORS, path)


def write_archive(path: Path) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(TENSORS["a.weight"])
    torch.jit.script(module).save(str(path))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_pickle, "x.pt"),
        (write_old_pickle, "x.pt"),
        (write_safetensors, "x.safetensors"),
        (write_archive, "x.pt"),
    ],
)
def test_file_cut_short_anywhere_is_refused(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    for part in (0.0, 0.02, 0.3, 0.7, 0.97):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(CheckpointError, match=name):  # a name cut short looks like a forbidden one
            checkpoints.read(path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"<html>404</html>", b"PK\x03\x04nothing", b"\x80\x02}."])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UnreadableCheckpoint):
        checkpoints.read(tmp_path / "x.pt")


def test_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnreadableCheckpoint):
        checkpoints.read(tmp_path / "x.pt")


def test_hash_is_that_of_the_weights_file(tmp_path: Path) -> None:
    write_pickle(tmp_path / "x.pt")
    first = checkpoints.read(tmp_path / "x.pt").sha256()
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    assert len(first) == 64
    assert checkpoints.read(tmp_path / "x.pt").sha256() != first
