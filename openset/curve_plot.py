"""Plots of curves as SVG, which needs no plotting library and stays sharp."""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 320, 64, 44, 32, 150
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
TICKS = 5
Line = Sequence[tuple[float, float]]


def curve_plot(title: str, lines: Mapping[str, Line], *, axis: str = "step") -> str:
    """Draw lines of (step, value), the values on one axis; a line of a single point is a dot; `axis` names steps."""
    points = [point for line in lines.values() for point in line]
    steps, values = [step for step, _ in points], [value for _, value in points]
    first, last = min(steps), max(steps)
    marks = _ticks(min(values), max(values))

    def at(step: float, value: float) -> str:
        x = LEFT + (step - first) / max(last - first, 1e-12) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (value - marks[0]) / (marks[-1] - marks[0]) * (HEIGHT - BOTTOM - TOP)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{html.escape(title)}</text>']
    for mark in marks:
        x, y = at(first, mark).split(",")
        parts.append(f'<line x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{mark:g}</text>')
    for step, anchor in ((first, "start"), (last, "end")):
        x = at(step, marks[0]).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 22}" text-anchor="{anchor}">{html.escape(axis)} {step:g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour, row = COLOURS[number % len(COLOURS)], TOP + 16 * number + 8
        path = " ".join(at(*point) for point in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(line) == 1:
            x, middle = path.split(",")
            parts.append(f'<circle cx="{x}" cy="{middle}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{row}" fill="{colour}">{html.escape(name)}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def _ticks(least: float, most: float) -> list[float]:
    """Round values around a range, at least two."""
    span = (most - least) or abs(most) or 1.0
    step = 10.0 ** math.floor(math.log10(span / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= TICKS)
    low, high = math.floor(least / step), math.ceil(most / step)
    return [round(number * step, 12) for number in range(low, max(high, low + 1) + 1)]
