"""Reports as HTML: tables, pictures inside, texts of a data set shown and not obeyed."""

import base64
from pathlib import Path

from models.html_report import html_report, write_reports

DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNiAAAABgADNjd8qAAAAABJRU5ErkJggg==")


def test_pictures_are_inside_and_tables_are_tables(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(DOT)
    (tmp_path / "b.svg").write_text("<svg/>")
    page = html_report("# A run\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n![dots](a.png)\n![lines](b.svg)\n", tmp_path)
    assert "<title>A run</title>" in page
    assert "<td>2</td>" in page
    assert f'src="data:image/png;base64,{base64.b64encode(DOT).decode()}"' in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert "http" not in page


def test_html_of_a_data_set_is_shown_as_text(tmp_path: Path):
    page = html_report('# <b>x</b>\n\n<script>alert(1)</script> ![a"><i>](gone.png)\n', tmp_path)
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_both_reports_are_written(tmp_path: Path):
    write_reports(tmp_path, "# A \udcff name\n")
    assert (tmp_path / "report.md").read_text() == "# A \\udcff name\n"
    assert "\\udcff" in (tmp_path / "report.html").read_text()
