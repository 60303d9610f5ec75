"""The training loop, the same for every family: AdamW, warm-up and cosine, averaged weights, checkpoints, resume."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

LOG = logging.getLogger(__name__)
CHECKPOINT = "last.pt"
CURVE = "curve.jsonl"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train; `slow` is the learning-rate factor of the parameters a task calls slow."""

    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup_steps: int = 200
    final_rate: float = 0.01
    clip_norm: float = 1.0
    average: float = 0.998
    slow: float = 1.0
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 250


class Task(Protocol):
    """What is trained. `state` holds the seeds of whatever a task draws at random, for a resumed run to go on alike."""

    model: nn.Module

    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The loss of a fresh batch, and figures for the log; progress runs from 0 to 1."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of `model` on pictures that are never trained on."""

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Last touches to the trained model, and figures for the log."""

    def is_slow(self, name: str) -> bool:
        """Whether a parameter learns at the reduced rate."""

    def state(self) -> dict[str, Any]:
        """Random states."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


class Trainer:
    """One run of a task, with its optimiser, its averaged weights and its folder."""

    def __init__(self, task: Task, config: LoopConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.step = 0
        self.optimiser = torch.optim.AdamW(_groups(task, config), lr=config.learning_rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: rate_at(step, config))
        self.averaged = AveragedModel(task.model, multi_avg_fn=moving_average(config.average), use_buffers=True)
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> nn.Module:
        """Train to the last step; returns the averaged model in evaluation mode."""
        config = self.config
        started, seen = time.monotonic(), self.step
        while self.step < config.steps:
            figures = self._one_step()
            if self.step % config.log_every == 0:
                pace = (time.monotonic() - started) / (self.step - seen)
                self._record({**figures, "rate": float(self.schedule.get_last_lr()[0]), "seconds_per_step": pace})
            if self.step % config.validate_every == 0 or self.step == config.steps:
                self._record(self.validate())
            if self.step % config.save_every == 0 or self.step == config.steps:
                self.save()
        with evaluating(self.averaged.module) as model:
            self._record(self.task.finish(model))
        return self.averaged.module.eval()

    def validate(self) -> dict[str, float]:
        """The task's figures for the averaged weights."""
        with evaluating(self.averaged.module) as model:
            return self.task.validate(model)

    def save(self) -> None:
        """Write everything a resumed run needs; a run that is cut off leaves the checkpoint before."""
        state = {
            "step": self.step,
            "model": self.task.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "task": self.task.state(),
            "random": torch.get_rng_state(),
        }
        part = self.folder / f"{CHECKPOINT}.part"
        torch.save(state, part)
        part.replace(self.folder / CHECKPOINT)

    def resume(self) -> bool:
        """Take up the folder's checkpoint, if there is one."""
        file = self.folder / CHECKPOINT
        if not file.is_file():
            return False
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        self.task.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.task.restore(state["task"])
        torch.set_rng_state(state["random"])
        return True

    def _one_step(self) -> dict[str, float]:
        self.task.model.train()
        loss, figures = self.task.loss(self.step / self.config.steps)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {self.step}: lower the learning rate, {self.config.learning_rate}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        self.averaged.update_parameters(self.task.model)
        self.step += 1
        return {"loss": float(loss.detach()), "norm": float(norm), **figures}

    def _record(self, figures: dict[str, float]) -> None:
        row = {"step": self.step, **{name: round(value, 6) for name, value in figures.items()}}
        with (self.folder / CURVE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        LOG.info("%s", "  ".join(f"{name} {value:.4g}" for name, value in row.items()))


def rate_at(step: int, config: LoopConfig) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine down to `final_rate`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """An exponential moving average that forgets faster at first, to hold little of the initial weights."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for kept, new in zip(averaged, current, strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, share)
            else:
                kept.copy_(new)  # BatchNorm's count of batches

    return update


def _groups(task: Task, config: LoopConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and by whether they decay: norms, biases and temperatures do not."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in task.model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((task.is_slow(name), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * (config.slow if slow else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (slow, decays), parameters in groups.items()
    ]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode, without gradients, put back as it was after."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(training)
