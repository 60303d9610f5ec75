"""`openset label` as a user runs it, with the bundled models."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.__main__ import main

EXAMPLES = Path(__file__).parents[3] / "server" / "examples"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        shutil.copy(EXAMPLES / "scene.jpg", folder / f"{number:02d}.jpg")
    (folder / "03.jpg").write_bytes(b"no picture")
    return folder


def label(pictures, out, *options):
    return ["label", str(pictures), "--labels", "dog, bicycle", "--out", str(out), *options]


def results(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_folder_becomes_data_sets_drawn_pictures_and_a_report(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(label(pictures, out, "--format", "coco,yolo", "--draw")) == 1  # one picture cannot be read
    printed, told = capsys.readouterr()
    assert "11 pictures" in printed
    assert "1 unreadable" in printed
    assert "03.jpg is not a picture" in told
    coco = json.loads((out / "coco.json").read_text())
    assert {each["name"] for each in coco["categories"]} == {"dog", "bicycle"}
    assert len(coco["images"]) == 11
    assert len(coco["annotations"]) == 11 * len(results(out)[0]["detections"]) > 0
    assert len(list((out / "drawn").glob("*.jpg"))) == 11
    assert (out / "yolo" / "data.yaml").is_file()
    assert "03.jpg" in (out / "report.md").read_text()


def test_killed_run_goes_on_without_a_double_and_ends_as_one_that_was_not(pictures, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(label(pictures, whole))
    command = [sys.executable, "-m", "server", *label(pictures, killed, "--parallel", "1")]
    with subprocess.Popen(command) as process:
        log = killed / "results.jsonl"
        while not (log.is_file() and log.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None, "ended too early"
            time.sleep(0.01)
        process.kill()
    assert 2 <= len(results(killed)) < 12
    main(label(pictures, killed))
    assert rounded(killed) == rounded(whole)


def test_repaired_changed_and_deleted_pictures_are_seen_by_the_next_run(pictures, tmp_path, capsys):
    for number in range(4, 12):
        (pictures / f"{number:02d}.jpg").unlink()
    out = tmp_path / "out"
    assert main(label(pictures, out, "--format", "coco,yolo")) == 1
    capsys.readouterr()
    shutil.copy(EXAMPLES / "scene.jpg", pictures / "03.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", pictures / "01.jpg")
    (pictures / "02.jpg").unlink()
    assert main(label(pictures, out, "--format", "coco,yolo")) == 0
    assert "from an earlier run: 1 pictures; changed or gone since: 2" in capsys.readouterr().out
    sizes = {each["file_name"]: each["width"] for each in json.loads((out / "coco.json").read_text())["images"]}
    assert sizes.keys() == {"00.jpg", "01.jpg", "03.jpg"}
    assert sizes["01.jpg"] != sizes["00.jpg"]
    assert {path.name for path in (out / "yolo" / "labels").iterdir()} == {"00.txt", "01.txt", "03.txt"}
    assert (out / "yolo" / "images" / "01.jpg").read_bytes() == (pictures / "01.jpg").read_bytes()


def rounded(out):
    """Results but for the last digits of scores, which depend on the pictures of a batch."""
    return [
        (each["image"], each.get("error"), [(found["label"], round(found["score"], 3)) for found in each["detections"]])
        for each in results(out)
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--labels", "dog", "--threshold", "cat=0.5"], "--threshold cat=…: the labels are dog"),
        (["--prompt", "a dog.", "--threshold", "a dog=0.5"], "--threshold is for one of --labels"),
        (
            ["--labels", "dog", "--model", "clip-mini"],
            "there is no model 'clip-mini' that can detect; there are: grounding-dino-mini",
        ),
        (["--labels", "dog", "--every", "0"], "--every must be a number of seconds above 0"),
        (["--labels-file", "missing.txt"], "missing.txt cannot be read: No such file or directory"),
        (["--labels-file", "/dev/zero"], "/dev/zero cannot be read: it is no regular file"),
        (["--labels-file", __file__.replace("test_cli.py", "")], "cannot be read: it is no regular file"),
        (["--labels", "dog", "--bundle", "missing"], "missing"),
    ],
)
def test_job_that_cannot_run_says_why_in_one_line(pictures, tmp_path, capsys, options, reason):
    assert main(["label", str(pictures), "--out", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("openset label: ")
    assert reason in line


def test_file_of_labels_in_another_encoding_is_refused_in_one_line(pictures, tmp_path, capsys):
    (tmp_path / "labels.txt").write_bytes("Hündin\n".encode("latin-1"))
    assert main(["label", str(pictures), "--out", "x", "--labels-file", str(tmp_path / "labels.txt")]) == 2
    assert "labels.txt cannot be read: it is not UTF-8" in capsys.readouterr().err


def test_other_labels_in_the_same_folder_are_refused(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    main(label(pictures / "00.jpg", out))
    assert main(["label", str(pictures / "00.jpg"), "--labels", "cat", "--out", str(out)]) == 2
    assert "other labels" in capsys.readouterr().err


def test_phrases_of_a_prompt_are_the_categories(pictures, tmp_path):
    out = tmp_path / "out"
    assert main(["label", str(pictures / "00.jpg"), "--prompt", "a bicycle. a dog.", "--out", str(out)]) == 0
    names = {each["name"] for each in json.loads((out / "coco.json").read_text())["categories"]}
    assert names
    assert names <= {"a bicycle", "a dog"}


def test_quiet_job_prints_nothing_and_keeps_its_status(pictures, tmp_path, capsys):
    assert main(label(pictures / "03.jpg", tmp_path / "out", "--quiet")) == 2
    assert capsys.readouterr() == ("", "")


def test_format_whose_package_is_missing_is_told_before_the_work(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    assert main(label(pictures, tmp_path / "out", "--format", "parquet")) == 2
    assert "[label]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_label_keeps_what_is_above_its_own_least_score(pictures, tmp_path):
    out, own = tmp_path / "out", tmp_path / "own"
    main(label(pictures / "00.jpg", out, "--box-threshold", "0.1"))
    (result,) = results(out)
    best = max(found["score"] for found in result["detections"] if found["label"] == "dog")
    others = [found for found in result["detections"] if found["label"] != "dog"]
    main(label(pictures / "00.jpg", own, "--box-threshold", "0.1", "--threshold", f"dog={best - 0.001}"))
    (result,) = results(own)
    assert len(result["detections"]) == len(others) + 1
    assert f"least score of dog: {best - 0.001}" in (own / "report.md").read_text()
