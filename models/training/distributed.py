"""Several processes that train one model, as torchrun starts them; without torchrun, one."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

CPU = torch.device("cpu")
TIMEOUT = timedelta(hours=2)  # the others wait while the first validates


@dataclass(frozen=True)
class Processes:
    """This process's place among `count`, and the device it computes on."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.count == 1:
            return values
        summed = values.detach().clone().to(self.device)
        distributed.all_reduce(summed)
        return summed.to(values.device)

    def figures(self, figures: dict[str, float]) -> dict[str, float]:
        """Each figure, added up over all processes, which have the same ones."""
        if self.count == 1:
            return figures
        # Some figures are of batches with objects only: names may differ, so they are exchanged with the values.
        every: list[dict[str, float]] = [{} for _ in range(self.count)]
        distributed.all_gather_object(every, figures)
        names = dict.fromkeys(name for one in every for name in one)
        return {name: sum(one.get(name, 0.0) for one in every) for name in names}

    def gathered(self, rows: Tensor) -> list[Tensor]:
        """The `rows` [n, ...] of every process, n of each its own; without gradient."""
        if self.count == 1:
            return [rows.detach()]
        counts = self._every(torch.tensor([len(rows)], device=rows.device))
        longest = int(max(count.item() for count in counts))
        filled = rows.detach().new_zeros(longest, *rows.shape[1:])
        filled[: len(rows)] = rows.detach()
        return [part[: int(count.item())] for part, count in zip(self._every(filled), counts, strict=True)]

    def _every(self, values: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(values) for _ in range(self.count)]
        distributed.all_gather(parts, values)
        return parts

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            distributed.barrier()


def join(device: str = "auto") -> Processes:
    """This process among those that torchrun started; `device` is "auto" (a GPU each if there is one), "cpu" or "cuda".

    GPUs talk by NCCL, processors by Gloo.
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
    return Processes(rank, count, chosen)


def leave(processes: Processes) -> None:
    """End what `join` began."""
    if processes.count > 1:
        distributed.destroy_process_group()
