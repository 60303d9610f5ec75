"""The report of a run: last and best figures, plots, nothing without a curve."""

import json
from pathlib import Path

import pytest

from models.training.run_report import write_run_report


def test_report_has_the_last_and_the_best_of_each_figure_and_its_plots(tmp_path: Path):
    rows = [
        {"step": 10, "loss": 2.0, "norm": 5.0},
        {"step": 20, "validation_loss": 1.5, "validation_ap": 0.5, "ap/a|b": 0.25},
        {"step": 30, "loss": 3.0},
        {"step": 40, "validation_loss": 1.75, "validation_ap": 0.25, "ap/a|b": 0.75},
    ]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert write_run_report(tmp_path, "street", {"started from": "a|b"}) is None
    report = (tmp_path / "report.md").read_text().splitlines()
    assert report[0] == "# Training of street"
    assert "| loss |  | 3 | 2 |" in report
    assert "| validation_loss |  | 1.75 | 1.5 |" in report
    assert "| validation_ap |  | 0.25 | 0.5 |" in report
    assert "| ap/a\\|b |  | 0.75 | 0.75 |" in report
    assert not any("norm" in line for line in report)
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["average-precision-of-labels.svg", "average-precision-on-validation-pictures.svg", "loss.svg"]
    assert (tmp_path / "report.html").read_text().count("data:image/svg+xml;base64,") == 3


@pytest.mark.parametrize(
    ("figure", "start", "best", "last", "worse"),
    [
        ("validation_ap", 0.5, 0.75, 0.25, True),
        ("validation_ap", 0.5, 0.75, 0.75, False),
        ("validation_ap", 0.5, 0.5, 0.5, False),
        ("validation_loss", 1.0, 1.0, 1.5, True),
        ("validation_loss", 1.0, 0.5, 0.5, False),
        ("rate", 1.0, 1.0, 0.5, False),
    ],
)
def test_a_run_that_ends_worse_than_its_start_says_so(
    figure: str, start: float, best: float, last: float, worse: bool, tmp_path: Path
):
    rows = [{"step": 0, figure: start}, {"step": 10, figure: best}, {"step": 20, figure: last}]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    warning = write_run_report(tmp_path, "street", {})
    report = (tmp_path / "report.md").read_text()
    assert f"| {figure} | {start:.4g} | {last:.4g} | {best:.4g} |" in report
    assert (warning is not None) == worse == ("worse than its start" in report)


def test_run_without_a_curve_has_no_report(tmp_path: Path):
    write_run_report(tmp_path, "street", {})
    assert list(tmp_path.iterdir()) == []
