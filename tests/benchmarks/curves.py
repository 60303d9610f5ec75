"""Plot of training curves, one column per run: loss above, held-out figures below.

python -m tests.benchmarks.curves curves.png clip-mini=runs/clip/curve.jsonl glip-mini=runs/glip/curve.jsonl
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, wherever it runs
from matplotlib.figure import Figure

SHARES = ("top1", "top5", "ap50", "recall", "found")  # suffixes of figures from 0 to 1
Lines = dict[str, tuple[list[int], list[float]]]


def read_curve(file: Path) -> tuple[Lines, Lines]:
    """Losses and held-out shares of a run by name, each as (steps, values)."""
    losses: Lines = {}
    shares: Lines = {}
    for line in file.read_text().splitlines():
        record = json.loads(line)
        training = "loss" in record  # other records are of held-out pictures
        for name, value in record.items():
            kept = losses if name == "loss" else shares if not training and name.endswith(SHARES) else None
            if kept is not None:
                steps, values = kept.setdefault(name.replace("_", " "), ([], []))
                steps.append(record["step"])
                values.append(value)
    return losses, shares


def draw(curves: Mapping[str, Path], out: Path) -> None:
    """Plot the curve files of runs, by name, into the image `out`."""
    figure = Figure(figsize=(4.5 * len(curves), 6), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False)
    for (name, file), (above, below) in zip(curves.items(), axes.T, strict=True):
        losses, shares = read_curve(file)
        for axis, lines in ((above, losses), (below, shares)):
            for label, (steps, values) in lines.items():
                axis.plot(steps, values, label=label)
            axis.grid(alpha=0.3)
            if lines:
                axis.legend()
        above.set(title=name, ylabel="loss")
        below.set(xlabel="step", ylabel="held-out pictures", ylim=(0, 1.02))
    figure.savefig(out, dpi=100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Draw the curves of training runs.")
    parser.add_argument("out", type=Path)
    parser.add_argument("curves", nargs="+", metavar="NAME=FILE")
    chosen = parser.parse_args(arguments)
    draw({name: Path(file) for name, _, file in (curve.partition("=") for curve in chosen.curves)}, chosen.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
