"""Data-parallel training (DDP): processes as torchrun starts them; without torchrun, one."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

CPU = torch.device("cpu")
TIMEOUT = timedelta(hours=2)  # the others wait while the main process validates


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process, the number of processes, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Tell whether this is the process that writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` over all processes."""
        if self.size == 1:
            return values
        summed = values.detach().clone().to(self.device)
        distributed.all_reduce(summed)
        return summed.to(values.device)

    def sum_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """Sum each figure over the processes that have it."""
        if self.size == 1:
            return figures
        # Some figures are of batches with objects only: names may differ, so they are exchanged with the values.
        every: list[dict[str, float]] = [{} for _ in range(self.size)]
        distributed.all_gather_object(every, figures)
        names = dict.fromkeys(name for one in every for name in one)
        return {name: sum(one.get(name, 0.0) for one in every) for name in names}

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Gather the `rows` [n, ...] of every process, without gradient; n may differ between processes."""
        if self.size == 1:
            return [rows.detach()]
        counts = self._gather_equal(torch.tensor([len(rows)], device=rows.device))
        longest = int(max(count.item() for count in counts))
        filled = rows.detach().new_zeros(longest, *rows.shape[1:])
        filled[: len(rows)] = rows.detach()
        return [part[: int(count.item())] for part, count in zip(self._gather_equal(filled), counts, strict=True)]

    def _gather_equal(self, values: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(parts, values)
        return parts

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()


ALONE = ProcessGroup()


def join_group(device: str = "auto") -> ProcessGroup:
    """Join the processes that torchrun started; `device` is "auto" (a GPU each if there is one), "cpu" or "cuda".

    GPUs communicate by NCCL, CPUs by Gloo.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; accepted are 'auto', 'cpu' and 'cuda'")
    on_gpu = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and PyTorch sees no GPU here")
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    if count > 1:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    return ProcessGroup(rank, count, chosen)


def leave_group(group: ProcessGroup) -> None:
    """Leave the group that `join_group` joined."""
    if group.size > 1:
        distributed.destroy_process_group()
