"""Plots of a report, as PNG files."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, wherever it runs
from matplotlib.figure import Figure

from models.evaluation.metrics import Plot


def write_plot(plot: Plot, file: Path) -> None:
    """Draw a plot into `file`; its axes go from 0 to 1, but the counts of a histogram."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in plot.lines.items():
        if plot.bars:
            width = float(x[1] - x[0]) if len(x) > 1 else 1.0
            axes.bar(x, y, width=width, align="edge", alpha=0.6, label=name)
        else:
            axes.plot(x, y, marker="o" if plot.diagonal else None, label=name)
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="calibrated")
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y, xlim=(0, 1))
    if plot.bars:
        axes.set_yscale("symlog")
    else:
        axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
