"""Log of a run: `curve.jsonl`, TensorBoard events, and a progress bar."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LOG = logging.getLogger(__name__)
CURVE = "curve.jsonl"
EVENTS = "tensorboard"


class RunLogger:
    """Writes the figures of a run into its folder; a run that is resumed at `step` first drops later ones."""

    def __init__(self, folder: Path, *, step: int, steps: int, tensorboard: bool) -> None:
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
        """Advance the bar by a step."""
        self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.update()

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Write a line of the curve, a line of the log, and a TensorBoard point of each figure."""
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}  # JSON has no infinity
        row = {"step": step, **{name: round(value, 6) for name, value in figures.items()}}
        with self._curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        LOG.info("%s", "  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the bar and the events."""
        self._redirected.__exit__(None, None, None)
        self._bar.close()
        if self._events is not None:
            self._events.close()


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
