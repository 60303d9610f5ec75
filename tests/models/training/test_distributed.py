"""Two processes train what one does with the joint batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.training.distributed import ALONE, join_group
from tests.models.training.joint_run import RUNS, train
from tests.models.training.small_recipes import write_sets

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where two processes, and where one, left what they trained."""
    folder = tmp_path_factory.mktemp("joint")
    write_sets(folder)
    two, one = folder / "two", folder / "one"
    for out in (two, one):
        out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.models.training.joint_run", str(folder), str(two), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    train(folder, one, 2)
    return two, one


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_learn_what_one_learns_from_the_joint_batch(runs: tuple[Path, Path], run: str):
    two, one = (torch.load(folder / f"{run}.pt", weights_only=True) for folder in runs)
    for mine, theirs in zip(two["figures"], one["figures"], strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-4)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_one_process_needs_no_group():
    alone = join_group("cpu")
    assert (alone.rank, alone.size, alone.is_main) == (0, 1, True)
    assert alone.sum(torch.ones(2)).tolist() == [1, 1]
    assert alone.sum_figures({"loss": 2.0}) == {"loss": 2.0}
    assert torch.equal(alone.gather(torch.ones(2, 3))[0], torch.ones(2, 3))
    alone.wait()


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device is 'tpu'; accepted are"):
        join_group("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="PyTorch sees no GPU here"):
            join_group("cuda")
    assert ALONE.device.type == "cpu"
