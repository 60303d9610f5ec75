from pathlib import Path

import pytest

from models.synthetic.sprites import NAMES_FILE, SMALL_PACK
from tests.benchmarks import generalisation
from tests.models.training.small_words import write_small_words


def test_rows_are_figures_and_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = write_small_words(tmp_path / "words")
    command = [str(tmp_path / "out"), "--sprites", str(SMALL_PACK), "--names", str(NAMES_FILE), "--words", str(words)]
    command += ["--steps", "1", "--batch", "4", "--pictures", "100", "--variants", "1"]
    assert generalisation.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [v.name for v in generalisation.VARIANTS[:1]]
    for line in lines[2:]:
        figures = [float(cell) for cell in line.split("|")[2:-1]]
        assert len(figures) == len(generalisation.COLUMNS)
        assert all(0 <= figure <= 1 for figure in figures)
    assert generalisation.main(command) == 0
    assert capsys.readouterr().out.splitlines() == lines
