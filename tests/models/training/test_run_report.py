"""The report of a run: last and best figures, plots, nothing without a curve."""

import json
from pathlib import Path

from models.training.run_report import write_run_report


def test_report_has_the_last_and_the_best_of_each_figure_and_its_plots(tmp_path: Path):
    rows = [
        {"step": 10, "loss": 2.0, "norm": 5.0},
        {"step": 20, "validation_loss": 1.5, "validation_ap": 0.5, "ap/a|b": 0.25},
        {"step": 30, "loss": 3.0},
        {"step": 40, "validation_loss": 1.75, "validation_ap": 0.25, "ap/a|b": 0.75},
    ]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run_report(tmp_path, "street", {"started from": "a|b"})
    report = (tmp_path / "report.md").read_text().splitlines()
    assert report[0] == "# Training of street"
    assert "| loss | 3 | 2 |" in report
    assert "| validation_loss | 1.75 | 1.5 |" in report
    assert "| validation_ap | 0.25 | 0.5 |" in report
    assert "| ap/a\\|b | 0.75 | 0.75 |" in report
    assert not any("norm" in line for line in report)
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["average-precision-of-labels.svg", "average-precision-on-validation-pictures.svg", "loss.svg"]
    assert (tmp_path / "report.html").read_text().count("data:image/svg+xml;base64,") == 3


def test_run_without_a_curve_has_no_report(tmp_path: Path):
    write_run_report(tmp_path, "street", {})
    assert list(tmp_path.iterdir()) == []
