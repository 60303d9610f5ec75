"""Trains the small models for two steps, in as many processes as torchrun starts:

python -m torch.distributed.run --nproc-per-node 2 -m tests.models.training.joint_run FOLDER OUT BATCH

OUT/FAMILY.pt of each family then holds its weights and the figures of its steps.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from models.training.distributed import join, leave
from tests.models.training.small_recipes import FAMILIES, LOOP, recipe, trainer


def train(folder: Path, out: Path, batch: int) -> None:
    """Train all families on batches of `batch` pictures a process, each step two of them."""
    torch.set_num_threads(1)
    processes = join("cpu")
    for family in FAMILIES:
        loop = replace(LOOP, steps=2, accumulate=2, clip_norm=1e9)
        # Which of a shard's samples come when depends on how many read them, and so would the result.
        data = {"sets": [{"format": "captions", "path": "captions"}]} if family == "clip" else {}
        run = trainer(
            recipe(family, folder, loop=loop, batch=batch, **data),
            folder / "checkpoints" / family,
            out / family,
            processes,
        )
        # Adam's first steps have the size of the rate, even where the gradient, and so its sign, is but rounding.
        run.optimiser = torch.optim.SGD(run.task.module.parameters(), lr=1e-3)
        run.schedule = torch.optim.lr_scheduler.ConstantLR(run.optimiser, 1.0)
        figures = [run._over_all(run._one_step()) for _ in range(2)]
        if processes.first:
            torch.save({"weights": run.task.module.state_dict(), "figures": figures}, out / f"{family}.pt")
    leave(processes)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
