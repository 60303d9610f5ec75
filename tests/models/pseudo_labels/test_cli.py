"""`openset pseudo-label` on pictures of coloured squares with captions, and what training makes of its records."""

import json
import logging
from pathlib import Path

import pytest

from models.data.odvg import OdvgSet
from models.pseudo_labels import cli as command
from server.__main__ import main
from tests.models.data import annotated_sets as sets
from tests.models.evaluation.scripted_backend import OpensScripted, ScriptedBackend
from tests.models.training.small_recipes import checkpoint, recipe, trainer

COUNT = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sets.captions(tmp_path / "captions", COUNT)


@pytest.fixture
def teacher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    """Detects every square."""
    known = {(folder / f"{number}.png").read_bytes(): sets.picture(number)[1] for number in range(COUNT)}

    def detect(picture, labels):
        things = {f"{name} square": box for name, box in known[picture]}
        return [
            ((x, y, x + w, y + h), place, 0.9)
            for place, label in enumerate(labels)
            if label in things
            for x, y, w, h in [things[label]]
        ]

    backend = ScriptedBackend(detect=detect)
    monkeypatch.setattr(command, "open_backend", OpensScripted(backend))
    return backend


def label(*arguments) -> int:
    return main(["pseudo-label", *map(str, arguments)])


def test_every_caption_becomes_a_record_that_training_reads(
    folder: Path, tmp_path: Path, teacher: ScriptedBackend, capsys
):
    out = tmp_path / "pseudo.jsonl"
    assert label(folder, "--out", out) == 0
    captions = sum(len((folder / f"{number}.txt").read_text().splitlines()) for number in range(COUNT))
    assert f"{captions} records of {captions} captions" in capsys.readouterr().out
    records = OdvgSet(out, folder)
    assert len(records) == captions == len(teacher.asked)
    number, (name, (x, y, w, h)) = 0, sets.picture(0)[1][0]
    (region,) = records[number].regions
    assert region.boxes_xyxy.tolist() == [[x, y, x + w, y + h]]
    ((start, end),) = region.spans
    assert records[number].caption[start:end] == f"{name} square"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["pseudo.jsonl"]


def test_a_student_trains_on_boxes_and_pseudo_labels(folder: Path, tmp_path: Path, teacher: ScriptedBackend):
    assert label(folder, "--out", tmp_path / "pseudo.jsonl") == 0
    sets.coco(tmp_path / "coco")
    tables = [
        {"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"},
        {"format": "odvg", "annotations": "pseudo.jsonl", "pictures": "captions"},
    ]
    checkpoint("glip", tmp_path / "checkpoints")
    one = recipe("glip", tmp_path, sets=tables, validation=tables[:1])
    run = trainer(one, tmp_path / "run")
    run.run()
    assert run.step == one.loop.steps


def test_an_interrupted_run_is_resumed(folder: Path, tmp_path: Path, teacher: ScriptedBackend, monkeypatch):
    out, asked, whole = tmp_path / "pseudo.jsonl", [], teacher.detect

    def stops(*arguments, **options):
        asked.append(arguments)
        if len(asked) == 4:
            raise OSError("the machine went away")
        return whole(*arguments, **options)

    monkeypatch.setattr(teacher, "detect", stops)
    assert label(folder, "--out", out, "--parallel", "1") == 2
    assert not out.exists()
    assert label(folder, "--out", out, "--parallel", "1", "--threshold", "0.2", "--resume") == 2  # another run's log
    assert label(folder, "--out", out, "--parallel", "1", "--resume") == 0
    assert len(OdvgSet(out, folder)) == len(asked) - 1
    before = out.read_text()
    assert label(folder, "--out", out) == 2  # the file is kept
    assert out.read_text() == before


def test_a_list_of_captions_names_its_pictures(folder: Path, tmp_path: Path, teacher: ScriptedBackend):
    lines = tmp_path / "list.jsonl"
    sets.write_lines(lines, [{"file_name": f"{number}.png", "caption": "a red square"} for number in range(COUNT)])
    assert label(lines, "--pictures", folder, "--out", tmp_path / "pseudo.jsonl") == 0
    names = [json.loads(line)["filename"] for line in (tmp_path / "pseudo.jsonl").read_text().splitlines()]
    red = [number for number in range(COUNT) if "red" in dict(sets.picture(number)[1])]
    assert names == [f"{number}.png" for number in red]


def test_a_broken_picture_is_named_or_left_out(folder: Path, tmp_path: Path, teacher: ScriptedBackend, capsys):
    (folder / "2.png").write_bytes(b"no picture")
    assert label(folder, "--out", tmp_path / "one.jsonl") == 2
    assert "2.png: the picture cannot be read" in capsys.readouterr().err
    assert label(folder, "--out", tmp_path / "two.jsonl", "--skip-faulty") == 0
    assert "left out as faulty: 1 (picture 1)" in capsys.readouterr().out


def test_requests_to_a_server_have_no_line_each(folder: Path, tmp_path: Path, teacher: ScriptedBackend):
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    assert label(folder, "--out", tmp_path / "pseudo.jsonl") == 0
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
