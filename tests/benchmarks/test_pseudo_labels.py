"""The benchmark of pseudo-labels from end to end, too short to learn anything."""

from pathlib import Path

import pytest

from tests.benchmarks import pseudo_labels


@pytest.mark.slow
def test_the_experiment_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(pseudo_labels, "KINDS", {"boxed": (4, 1), "captioned": (6, 2), "measured": (4, 3)})
    arguments = [str(tmp_path), "--steps", "2", "--threshold", "0.0"]
    assert pseudo_labels.main(arguments) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 0 |")]
    assert [row.split(" | ")[1] for row in rows] == ["boxes", "pseudo", "true"]
    assert pseudo_labels.main(arguments) == 0  # all of it is there
    assert "openset train" not in capsys.readouterr().out
