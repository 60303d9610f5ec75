"""The training loop, the same for every family: AdamW, warm-up and cosine, averaged weights, checkpoints, resume."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.training.distributed import Processes
from models.training.mixed_precision import Precision
from models.training.param_groups import groups, rate_factors
from models.training.run_logger import CURVE, Recorder

__all__ = ["CURVE", "LoopConfig", "SelfFed", "SelfFedTask", "StepContext", "Task", "Trainer"]

CHECKPOINT = "last.pt"
SETTLED = ("steps", "log_every", "validate_every", "save_every", "tensorboard", "device")  # may change on resuming


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train.

    `slow` is the learning-rate factor of the parameters a task calls slow, `rates` that of the parameters whose names
    begin so, `layer_decay` the factor from a layer of a tower to the one below it; `frozen` parameters do not learn. A
    step learns from `accumulate` batches of each process. `precision`: fp32, bf16 or fp16.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup_steps: int = 200
    final_rate: float = 0.01
    clip_norm: float = 1.0
    average: float = 0.998
    slow: float = 1.0
    rates: dict[str, float] = field(default_factory=dict)
    layer_decay: float = 1.0
    frozen: Sequence[str] = ()
    accumulate: int = 1
    precision: str = "fp32"
    device: str = "auto"
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 250
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 or more is expected")


@dataclass(frozen=True)
class StepContext:
    """One step, as a task sees it: `step` of the run, `progress` from 0 to 1, batches to `accumulate`."""

    step: int
    progress: float
    accumulate: int
    precision: Precision
    processes: Processes

    def autocast(self) -> AbstractContextManager[Any]:
        """Around what may be computed in the run's precision."""
        return self.precision.autocast()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a part of the loss."""
        self.precision.scaler.scale(loss).backward()


class Task(Protocol):
    """What is trained. `module` is all that learns; `model`, in it, is what is averaged and kept.

    `state` holds what a resumed run needs to draw the batches that would have come next.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def module(self) -> nn.Module: ...

    def learn(self, turn: StepContext) -> dict[str, float]:
        """Leave the gradient of a step's batches in the parameters; figures, "loss" among them.

        Figures of several processes are added up.
        """

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of `model` on pictures that are never trained on."""

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Last touches to the trained model, and figures for the log."""

    def is_slow(self, name: str) -> bool:
        """Whether a parameter of the model learns at the reduced rate."""

    def state(self) -> dict[str, Any]:
        """Random states, or how far the data are read."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


class SelfFed(Protocol):
    """A task that draws its own batches: `loss` is that of a fresh one, at a progress from 0 to 1."""

    model: nn.Module

    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]: ...
    def validate(self, model: nn.Module) -> dict[str, float]: ...
    def finish(self, model: nn.Module) -> dict[str, float]: ...
    def is_slow(self, name: str) -> bool: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class SelfFedTask:
    """A self-fed task as a `Task`: one batch a step, in one process."""

    def __init__(self, task: SelfFed) -> None:
        self.task, self.model, self.module = task, task.model, task.model
        self.validate, self.finish, self.is_slow = task.validate, task.finish, task.is_slow
        self.state, self.restore = task.state, task.restore

    def learn(self, turn: StepContext) -> dict[str, float]:
        if turn.accumulate > 1 or turn.processes.count > 1:
            raise ValueError("generated pictures are trained on in one process, with accumulate = 1")
        with turn.autocast():
            loss, figures = self.task.loss(turn.progress)
        turn.backward(loss)
        return {"loss": float(loss.detach()), **figures}


class Trainer:
    """One run of a task, with its optimiser, its averaged weights and its folder, which one process writes."""

    def __init__(self, task: Task, config: LoopConfig, folder: Path, processes: Processes | None = None) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.processes = Processes() if processes is None else processes
        self.step = 0
        self.precision = Precision(config.precision, self.processes.device)
        self.optimiser = torch.optim.AdamW(_groups(task, config), lr=config.learning_rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: rate_at(step, config))
        self.averaged = AveragedModel(task.model, multi_avg_fn=moving_average(config.average), use_buffers=True)
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> nn.Module:
        """Train to the last step; returns the averaged model in evaluation mode."""
        config, recorder = self.config, None
        if self.processes.first:
            recorder = Recorder(self.folder, step=self.step, steps=config.steps, tensorboard=config.tensorboard)
        try:
            self._steps(recorder)
            with evaluating(self.averaged.module) as model:
                self._write(recorder, self.task.finish(model))
        finally:
            if recorder is not None:
                recorder.close()
        return self.averaged.module.eval()

    def validate(self) -> dict[str, float]:
        """The task's figures for the averaged weights."""
        with evaluating(self.averaged.module) as model:
            return self.task.validate(model)

    def save(self) -> None:
        """Write everything a resumed run needs; a run that is cut off leaves the checkpoint before."""
        if not self.processes.first:
            return
        state = {
            "step": self.step,
            "settings": self._settings(),
            "model": self.task.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.precision.state(),
            "task": self.task.state(),
            "random": torch.get_rng_state(),
        }
        part = self.folder / f"{CHECKPOINT}.part"
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / CHECKPOINT)

    def resume(self) -> bool:
        """Take up the folder's checkpoint, if there is one; ValueError where the run was another."""
        file = self.folder / CHECKPOINT
        if not file.is_file():
            return False
        state = torch.load(file, weights_only=True, map_location=self.processes.device)
        for name, value in state.get("settings", {}).items():
            if value != (now := self._settings()[name]):
                raise ValueError(f"{file} was written with {name} = {value!r}, now it is {now!r}")
        self.step = state["step"]
        self.task.module.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.precision.restore(state.get("scaler", {}))
        self.task.restore(state["task"])
        torch.set_rng_state(state["random"].cpu())
        return True

    def _steps(self, recorder: Recorder | None) -> None:
        config = self.config
        started, seen = time.monotonic(), self.step
        while self.step < config.steps:
            figures = self._one_step()
            if recorder is not None:
                recorder.advance(figures["loss"])
            if self.step % config.log_every == 0:
                pace = (time.monotonic() - started) / (self.step - seen)
                rate = float(self.schedule.get_last_lr()[0])
                self._write(recorder, {**self._over_all(figures), "rate": rate, "seconds_per_step": pace})
            if self.step % config.validate_every == 0 or self.step == config.steps:
                self._write(recorder, self.validate() if recorder is not None else {})
            if self.step % config.save_every == 0 or self.step == config.steps:
                self.save()
            if self.step == config.steps:
                self.processes.wait()

    def _one_step(self) -> dict[str, float]:
        self.task.module.train()
        self.optimiser.zero_grad(set_to_none=True)
        progress = self.step / self.config.steps
        turn = StepContext(self.step, progress, self.config.accumulate, self.precision, self.processes)
        figures = self.task.learn(turn)
        if not math.isfinite(figures["loss"]) and not self.precision.scaler.is_enabled():
            raise ValueError(
                f"the loss is {figures['loss']} at step {self.step}: lower the learning rate,"
                f" {self.config.learning_rate}"
            )
        self.precision.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.task.module.parameters(), self.config.clip_norm)
        if self.precision.step(self.optimiser):
            self.schedule.step()
            self.averaged.update_parameters(self.task.model)
        self.step += 1
        return {"loss": figures.pop("loss"), "norm": float(norm), **figures}

    def _over_all(self, figures: dict[str, float]) -> dict[str, float]:
        """Figures of all processes together; the norm is the same in each, since gradients are shared."""
        parts = {name: value for name, value in figures.items() if name != "norm"}
        return {**self.processes.figures(parts), "norm": figures["norm"]}

    def _write(self, recorder: Recorder | None, figures: dict[str, float]) -> None:
        if recorder is not None and figures:
            recorder.write(self.step, figures)

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must have as it was."""
        config = {name: value for name, value in vars(self.config).items() if name not in SETTLED}
        return {**config, "frozen": list(self.config.frozen), "processes": self.processes.count}


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
    """The parameters of a task, with those of its model known by their names in it."""
    ours = {id(parameter): name for name, parameter in task.model.named_parameters()}
    named = [(ours.get(id(parameter), name), parameter) for name, parameter in task.module.named_parameters()]
    factors = rate_factors(list(ours.values()), config.rates, config.layer_decay)
    factors = {name: factor * (config.slow if task.is_slow(name) else 1.0) for name, factor in factors.items()}
    return groups(named, factors, learning_rate=config.learning_rate, weight_decay=config.weight_decay)


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
