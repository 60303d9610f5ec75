"""The training loop of every family: AdamW, warm-up and cosine, averaged weights (EMA), checkpoints, resume."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.training.distributed import ALONE, ProcessGroup
from models.training.mixed_precision import Precision
from models.training.param_groups import param_groups, rate_factors
from models.training.run_logger import RunLogger

CHECKPOINT = "last.pt"
CHANGEABLE = ("steps", "log_every", "validate_every", "save_every", "tensorboard", "device")  # on resuming
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LoopConfig:
    """Length, speed and precision of a run.

    `rates` are learning-rate factors by prefix of a parameter's name, `layer_decay` the factor from a layer of a tower
    to the one below it; parameters with a prefix in `frozen` are not trained. A step sums the gradients of `accumulate`
    batches of each process. `warmup_steps` are by default 200, at most a tenth of the steps. `average` is the decay of
    the averaged weights, which are what is kept.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: float = 0.05
    warmup_steps: NonNegativeInt | None = None
    final_rate: Share = 0.01
    clip_norm: PositiveFloat = 1.0
    average: Share = 0.998
    rates: dict[str, float] = field(default_factory=dict)
    layer_decay: PositiveFloat = 1.0
    frozen: tuple[str, ...] = ()
    accumulate: PositiveInt = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: PositiveInt = 50
    validate_every: PositiveInt = 500
    save_every: PositiveInt = 250
    tensorboard: bool = True


class StepContext(NamedTuple):
    """A step of the run: its number, batches to `accumulate`, precision, and processes."""

    number: int
    accumulate: int
    precision: Precision
    group: ProcessGroup

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the run's precision."""
        return self.precision.autocast()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a part of the loss."""
        self.precision.scaler.scale(loss).backward()


class Task(Protocol):
    """A training objective. `module` is all that is trained; `model`, in it, is averaged and kept.

    pictures: of an epoch; None where they have no end.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def pictures(self) -> int | None: ...

    def learn(self, step: StepContext) -> dict[str, float]:
        """Leave the gradient of a step's batches in the parameters; returns figures, "loss" among them.

        Figures of several processes are added up.
        """

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Measure `model` on held-out pictures."""

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Calibrate the trained model, and return figures for the log."""

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs to draw the batches that would have come next."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state."""


class Trainer:
    """A run of a task, with its optimiser, its averaged weights and its folder, which one process writes.

    baseline: validate before the first step too, to tell what the run has gained.
    """

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        group: ProcessGroup = ALONE,
        *,
        steps_per_epoch: float | None = None,
        baseline: bool = False,
    ) -> None:
        self._steps_per_epoch, self._baseline = steps_per_epoch, baseline
        self.task, self.config, self.folder, self.group = task, config, folder, group
        self.step = 0
        self.precision = Precision(config.precision, self.group.device)
        self.optimiser = torch.optim.AdamW(_param_groups(task, config), lr=config.learning_rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: rate_at(step, config))
        self.averaged = AveragedModel(task.model, multi_avg_fn=moving_average(config.average), use_buffers=True)
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> nn.Module:
        """Train to the last step; returns the averaged model in evaluation mode."""
        config, logger = self.config, None
        if self.group.is_main:
            logger = RunLogger(
                self.folder,
                step=self.step,
                steps=config.steps,
                tensorboard=config.tensorboard,
                steps_per_epoch=self._steps_per_epoch,
            )
        try:
            self._steps(logger)
            with evaluating(self.averaged.module) as model:
                self._write(logger, self.task.finish(model))
        finally:
            if logger is not None:
                logger.close()
        return self.averaged.module.eval()

    def validate(self) -> dict[str, float]:
        """Validate the averaged weights."""
        with evaluating(self.averaged.module) as model:
            return self.task.validate(model)

    def save(self) -> None:
        """Write the checkpoint that a run is resumed from; if this is interrupted, the previous one remains."""
        if not self.group.is_main:
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
        """Resume from the folder's checkpoint, if there is one; ValueError if it is of another run."""
        file = self.folder / CHECKPOINT
        if not file.is_file():
            return False
        state = torch.load(file, weights_only=True, map_location=self.group.device)
        for name, value in state.get("settings", {}).items():
            if value != (now := self._settings().get(name)):
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

    def _steps(self, logger: RunLogger | None) -> None:
        config = self.config
        if self._baseline and self.step == 0:
            self._write(logger, self.validate() if logger is not None else {})
        started, seen = time.monotonic(), self.step
        while self.step < config.steps:
            figures = self._one_step()
            if logger is not None:
                logger.advance(figures["loss"])
            if self.step % config.log_every == 0:
                pace = (time.monotonic() - started) / (self.step - seen)
                rate = float(self.schedule.get_last_lr()[0])
                self._write(logger, {**self._sum_figures(figures), "rate": rate, "seconds_per_step": pace})
            if self.step % config.validate_every == 0 or self.step == config.steps:
                self._write(logger, self.validate() if logger is not None else {})
            if self.step % config.save_every == 0 or self.step == config.steps:
                self.save()
            if self.step == config.steps:
                self.group.wait()

    def _one_step(self) -> dict[str, float]:
        self.task.module.train()
        self.optimiser.zero_grad(set_to_none=True)
        figures = self.task.learn(StepContext(self.step, self.config.accumulate, self.precision, self.group))
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

    def _sum_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """Sum figures over processes; the norm is the same in each, since gradients are shared."""
        parts = {name: value for name, value in figures.items() if name != "norm"}
        return {**self.group.sum_figures(parts), "norm": figures["norm"]}

    def _write(self, logger: RunLogger | None, figures: dict[str, float]) -> None:
        if logger is not None and figures:
            logger.write(self.step, figures)

    def _settings(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        config = {name: value for name, value in vars(self.config).items() if name not in CHANGEABLE}
        return {**config, "processes": self.group.size}


def rate_at(step: int, config: LoopConfig) -> float:
    """Compute the factor of the learning rate: a linear warm-up, then half a cosine down to `final_rate`."""
    warmup = min(200, config.steps // 10) if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Make an exponential moving average (EMA) that decays faster at first, to hold little of the initial weights."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for kept, new in zip(averaged, current, strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, share)
            else:
                kept.copy_(new)  # BatchNorm's count of batches

    return update


def _param_groups(task: Task, config: LoopConfig) -> list[dict[str, Any]]:
    """Group the parameters of a task; those of its model go by their names in the model."""
    ours = {id(parameter): name for name, parameter in task.model.named_parameters()}
    named = [(ours.get(id(parameter), name), parameter) for name, parameter in task.module.named_parameters()]
    factors = rate_factors(list(ours.values()), config.rates, config.layer_decay)
    return param_groups(named, factors, learning_rate=config.learning_rate, weight_decay=config.weight_decay)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into evaluation mode, without gradients, and back into its own mode after."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(training)
