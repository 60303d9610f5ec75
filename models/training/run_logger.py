"""Log of a run: `curve.jsonl`, TensorBoard events, and a progress bar."""

import json
import logging
import math
import re
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LOG = logging.getLogger(__name__)
CURVE = "curve.jsonl"
EVENTS = "tensorboard"
# Figures of the log's lines; all others are in the curve and in TensorBoard.
WATCHED = (
    "loss",
    "rate",
    "seconds_per_step",
    "validation_loss",
    "validation_ap",
    "validation_ap50",
    "validation_image_to_text",
    "validation_top1",
    "validation_top5",
    "quiet_recall",
)
SIGN_OF_LIFE_S = 30.0  # between lines of a log, where no bar is shown
SHOWN_LABELS = 8
FORBIDDEN = re.compile(r"[^-/\w.]")  # in TensorBoard's names: it warns of each, and replaces it


class RunLogger:
    """Writes the figures of a run into its folder; a run that is resumed at `step` first drops later ones."""

    def __init__(
        self, folder: Path, *, step: int, steps: int, tensorboard: bool, steps_per_epoch: float | None = None
    ) -> None:
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        self._first = self._step = step
        self._started = self._told = time.monotonic()
        self._curve = folder / CURVE
        _truncate(self._curve, step)
        self._events: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # takes a second to import, and only runs that train need it

            self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1 if step else None)
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=None, dynamic_ncols=True)
        self._redirected = logging_redirect_tqdm()
        self._redirected.__enter__()

    def advance(self, loss: float) -> None:
        """Advance the bar by a step; without a bar, a line is logged where none was for a while."""
        self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.update()
        self._step += 1
        if self._bar.disable and time.monotonic() - self._told > SIGN_OF_LIFE_S:
            self._tell(self._step, {"loss": loss})

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Write a line of the curve and a TensorBoard point of each figure, and those that one watches into the log."""
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}  # JSON has no infinity
        row = {"step": step, **{name: round(value, 6) for name, value in figures.items()}}
        with self._curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._tell(step, figures)
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(FORBIDDEN.sub("_", name), value, step)

    def _tell(self, step: int, figures: dict[str, float]) -> None:
        LOG.info("%s", self._line(step, figures))
        self._told = time.monotonic()

    def _line(self, step: int, figures: dict[str, float]) -> str:
        """A line to read: progress, the figures that one watches, time gone and to go."""
        seconds = time.monotonic() - self._started
        epoch = f"epoch {step / self._steps_per_epoch:.1f}, " if self._steps_per_epoch else ""
        parts = [f"{epoch}step {step} of {self._steps} ({step / self._steps:.0%})"]
        shown = [name for name in WATCHED if name in figures] or [name for name in figures if "/" not in name]
        parts += [f"{name.removeprefix('validation_').replace('_', ' ')} {figures[name]:.4g}" for name in shown]
        labels = {name.removeprefix("ap/"): value for name, value in figures.items() if name.startswith("ap/")}
        if labels:
            best = sorted(labels, key=lambda label: -labels[label])
            chosen = best if len(best) <= SHOWN_LABELS else [*best[: SHOWN_LABELS // 2], *best[-SHOWN_LABELS // 2 :]]
            parts.append("AP of " + ", ".join(f"{label} {labels[label]:.2f}" for label in chosen))
        if "loss" in figures:
            parts.append(f"{_span(seconds)} gone")
            if step > self._first:
                parts.append(f"{_span(seconds / (step - self._first) * (self._steps - step))} to go")
        kind = "validation: " if any(name.startswith("validation_") for name in figures) else ""
        return kind + ", ".join(parts)

    def close(self) -> None:
        """Close the bar and the events."""
        self._redirected.__exit__(None, None, None)
        self._bar.close()
        if self._events is not None:
            self._events.close()


def _span(seconds: float) -> str:
    """A span of time in its two largest units: "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _truncate(curve: Path, step: int) -> None:
    """Drop the rows of a curve after `step`, and an incomplete last one: a resumed run writes them again."""
    if not curve.is_file():
        return
    kept = []
    for line in curve.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] > step:
            break
        kept.append(line + "\n")
    part = curve.with_suffix(".part")
    part.write_text("".join(kept) if step else "", encoding="utf-8")
    part.replace(curve)
