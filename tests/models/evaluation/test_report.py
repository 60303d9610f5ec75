"""Report files: JSON without NaN, Markdown that shows data-set texts literally, and one PNG a plot and example."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.images import PictureFile
from models.evaluation.metrics import ExampleImage, MetricResult, Plot, Query, labelled_box
from models.evaluation.query_runner import LeftOut
from models.evaluation.report import Section, figures_table, write_report


def section(*, examples: tuple[ExampleImage, ...] = (), left_out: tuple[LeftOut, ...] = ()) -> Section:
    line = np.linspace(0, 1, 5)
    result = MetricResult(
        {"AP": 0.25, "AP large": float("nan"), "phrases": 3},
        plots=(Plot("curve", "A curve", "x", "y", {"line": (line, line)}),),
        examples=examples,
        tables=(("Labels", ("label", "AP"), [("a|b *c*", 0.5)]),),
        details={"labels": {"a": 0.5}},
    )
    return Section("detection", "mini 1", result, 3, 1.5, left_out)


def test_json_has_every_figure_and_no_nan(tmp_path: Path):
    write_report(tmp_path, {"set": "a.json"}, [section(left_out=(LeftOut("picture", "a.json: 1: broken"),))])
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "set": "a.json",
        "figures": {"detection": {"AP": 0.25, "AP large": None, "phrases": 3}},
        "questions": {"detection": 3},
        "left_out": {"detection": ["a.json: 1: broken"]},
        "left_out_by_kind": {"detection": {"picture": 1}},
        "details": {"detection": {"labels": {"a": 0.5}}},
    }


def test_the_table_shows_counts_whole_and_missing_figures_as_none():
    rows = figures_table([section()]).splitlines()[2:]
    assert rows == [
        "| detection | AP | 0.250 | 3 |",
        "| detection | AP large | none | 3 |",
        "| detection | phrases | 3 | 3 |",
    ]


def test_texts_of_a_data_set_are_escaped(tmp_path: Path):
    write_report(tmp_path, {}, [section()])
    assert r"| a\|b \*c\* | 0.500 |" in (tmp_path / "report.md").read_text()


def test_what_the_report_is_about_is_written_in_words(tmp_path: Path):
    about = {"left out": {}, "faulty": {"picture": 2, "box": 1}, "models": ["mini 1", "large 2"], "note": "a_b"}
    write_report(tmp_path, about, [section()])
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[2:6] == [
        "- left out: none",
        "- faulty: picture 2, box 1",
        "- models: mini 1, large 2",
        "- note: a\\_b",
    ]


@pytest.mark.parametrize("there", [True, False])
def test_examples_are_drawn_unless_their_image_has_gone(tmp_path: Path, there: bool):
    if there:
        Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    query = Query(PictureFile(tmp_path / "a.png"), "set: 1", ("dog",))
    example = ExampleImage("misses", query, [labelled_box((1, 1, 9, 9), "dog", 0, 0.5)], "missed dog")
    write_report(tmp_path / "out", {}, [section(examples=(example,))])
    files = {file.name for file in (tmp_path / "out" / "pictures").iterdir()}
    assert files == {"detection-curve.png"} | ({"detection-misses-0.png"} if there else set())
    assert ("misses: missed dog (a.png, set: 1)" in (tmp_path / "out" / "report.md").read_text()) == there
