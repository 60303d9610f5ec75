"""Trains the small models for two steps, in as many processes as torchrun starts:

python -m torch.distributed.run --nproc-per-node 2 -m tests.models.training.joint_run FOLDER OUT BATCH

OUT/RUN.pt of each run then holds its weights and the figures of its steps.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.training.distributed import join_group, leave_group
from tests.models.training.small_recipes import FAMILIES, LOOP, recipe, trainer

CAPTIONS = {"sets": [{"format": "captions", "path": "captions"}]}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    # The order of a shard's samples depends on the number of its readers, and so would the result.
    **{family: (family, CAPTIONS if family == "clip" else {}) for family in FAMILIES},
    "clip-scenes": ("clip", {"scenes": True}),
    "glip-scenes": ("glip", {"scenes": True}),
}


def train(folder: Path, out: Path, batch: int) -> None:
    """Train all runs on batches of `batch` pictures a process, each step two of them."""
    torch.set_num_threads(1)
    group = join_group("cpu")
    for name, (family, data) in RUNS.items():
        loop = replace(LOOP, steps=2, accumulate=2, clip_norm=1e9)
        run = trainer(recipe(family, folder, loop=loop, batch=batch, **data), out / name, group)
        # Adam's first steps have the size of the rate, even where the gradient, and so its sign, is but rounding.
        run.optimiser = torch.optim.SGD(run.task.module.parameters(), lr=1e-3)
        run.schedule = torch.optim.lr_scheduler.ConstantLR(run.optimiser, 1.0)
        figures = [run._sum_figures(run._one_step()) for _ in range(2)]
        if group.is_main:
            torch.save({"weights": run.task.module.state_dict(), "figures": figures}, out / f"{name}.pt")
    leave_group(group)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
