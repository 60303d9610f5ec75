"""`openset evaluate` on small sets, with scripted answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.__main__ import main
from tests.models.data import annotated_sets as sets
from tests.models.evaluation.test_dataset_queries import class_folder
from tests.models.evaluation.test_synthetic_queries import generated


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    sets.coco(tmp_path)
    return tmp_path / "coco.json"


def oracle(folder: Path, *, missed: int = 0, certain: float = 0.9):
    """Detects what is drawn in the images of `folder`, except the first `missed` objects of each."""
    known = {(folder / f"{number}.png").read_bytes(): sets.picture(number)[1] for number in range(6)}

    def detect(picture, labels):
        things = known[picture][missed:]
        return [((x, y, x + w, y + h), labels.index(name), certain) for name, (x, y, w, h) in things if name in labels]

    return detect


def evaluate(*arguments) -> int:
    return main(["evaluate", *map(str, arguments)])


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_an_oracle_reaches_one_and_the_report_is_complete(coco: Path, tmp_path: Path, answer, capsys):
    answer(detect=oracle(tmp_path / "pictures"))
    out = tmp_path / "out"
    assert evaluate(coco, "--pictures", tmp_path / "pictures", "--out", out) == 0
    figures = report(out)["figures"]
    assert figures["detection"]["AP"] == pytest.approx(1)
    assert figures["detection"]["AP large"] is None
    assert figures["absent"]["silent"] == 1
    assert "| detection | AP50 | 1.000 | 6 |" in capsys.readouterr().out
    text = (out / "report.md").read_text()
    named = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(named) == 3 + 1 + 3 + 3  # plots of detection and silence, the best and the worst half of six
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in named)
    assert (out / "report.html").read_text().count("data:image/png;base64,") == len(named)


@pytest.mark.parametrize("scored", [True, False])
def test_boxes_that_a_model_found_are_told_to_be_no_truth(coco: Path, tmp_path: Path, answer, capsys, scored):
    data = json.loads(coco.read_text())
    if scored:
        for annotation in data["annotations"]:
            annotation["score"] = 0.5
    coco.write_text(json.dumps(data))
    answer(detect=oracle(tmp_path / "pictures"))
    assert evaluate(coco, "--pictures", tmp_path / "pictures", "--out", tmp_path / "out") == 0
    assert ("how far models agree" in capsys.readouterr().out) == scored
    assert ("how far models agree" in (tmp_path / "out" / "report.md").read_text()) == scored


def test_misses_and_false_alarms_are_shown(coco: Path, tmp_path: Path, answer):
    right = oracle(tmp_path / "pictures", missed=1)
    answer(detect=lambda picture, labels: [*right(picture, labels), ((0, 0, 5, 5), 0, 0.8)])
    out = tmp_path / "out"
    assert evaluate(coco, "--pictures", tmp_path / "pictures", "--out", out, "--measures", "detection") == 0
    text = (out / "report.md").read_text()
    assert "false alarms: red 0.80" in text
    assert "misses: missed" in text
    # Of 9 objects 3 are found, at precision 1.
    assert report(out)["figures"]["detection"]["AR100"] < 0.5


def test_an_interrupted_run_is_resumed(coco: Path, tmp_path: Path, answer):
    arguments = [coco, "--pictures", tmp_path / "pictures", "--out", tmp_path / "out", "--parallel", "1"]
    right, asked = oracle(tmp_path / "pictures"), []

    def stops(picture, labels):
        asked.append(picture)
        if len(asked) == 4:
            raise OSError("the machine went away")
        return right(picture, labels)

    backend = answer(detect=stops)
    assert evaluate(*arguments) == 2
    assert evaluate(*arguments) == 2  # does not overwrite what exists
    backend = answer(detect=right)
    assert evaluate(*arguments, "--resume") == 0
    assert len(backend.asked) == 3 + 6  # the rest of the detections, and the absent ones
    assert report(tmp_path / "out")["figures"]["detection"]["AP"] == pytest.approx(1)
    backend = answer(detect=right)
    assert evaluate(*arguments, "--resume") == 0
    assert backend.asked == []


@pytest.mark.parametrize("line", ["7", "[[1]]", '{"a": 1}', '[["a", 2, 3, 4, 0, 0.5]]', "null"])
def test_an_answer_of_another_measure_in_the_log_is_named(coco: Path, tmp_path: Path, answer, capsys, line: str):
    answer(detect=oracle(tmp_path / "pictures"))
    arguments = [coco, "--pictures", tmp_path / "pictures", "--measures", "detection", "--out", tmp_path / "out"]
    assert evaluate(*arguments) == 0
    log = tmp_path / "out" / "answers-detection.jsonl"
    log.write_text(log.read_text().splitlines()[0] + f"\n{line}\n")
    assert evaluate(*arguments, "--resume") == 2
    assert "answers-detection.jsonl has no answer to" in capsys.readouterr().err


def test_a_broken_picture_is_named_or_left_out(coco: Path, tmp_path: Path, answer, capsys):
    answer(detect=oracle(tmp_path / "pictures"))
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    arguments = [coco, "--pictures", tmp_path / "pictures", "--measures", "detection", "--out"]
    assert evaluate(*arguments, tmp_path / "one") == 2
    assert "coco.json: image id 103: " in capsys.readouterr().err
    assert evaluate(*arguments, tmp_path / "two", "--skip-faulty") == 0
    assert len(report(tmp_path / "two")["left_out"]["detection"]) == 1
    assert "detection: left out as faulty: picture 1" in capsys.readouterr().out
    assert report(tmp_path / "two")["figures"]["detection"]["AP"] == pytest.approx(1)  # what it shows is not missed


def test_without_absent_labels_silence_has_no_figure(coco: Path, tmp_path: Path, answer):
    data = json.loads(coco.read_text())
    data["categories"] = data["categories"][:1]
    data["annotations"] = [one | {"category_id": data["categories"][0]["id"]} for one in data["annotations"]]
    coco.write_text(json.dumps(data))
    answer(detect=lambda picture, labels: [])
    assert evaluate(coco, "--pictures", tmp_path / "pictures", "--out", tmp_path / "out") == 0
    assert report(tmp_path / "out")["figures"]["absent"]["silent"] is None


def test_a_generated_set_is_measured_by_every_metric(tmp_path: Path, answer):
    answer(
        detect=lambda picture, labels: [((10, 10, 30, 40), labels.index("dog") if "dog" in labels else 0, 0.9)],
        classify=lambda picture, labels: [float(label == "owl") for label in labels],
        embed=lambda picture, texts: ([1.0, 0.0], [[1.0, 0.0] for _ in texts]),
    )
    assert evaluate(generated(tmp_path / "set"), "--out", tmp_path / "out") == 0
    figures = report(tmp_path / "out")["figures"]
    assert figures["classification"]["top-1"] == figures["retrieval"]["picture to text R@1"] == 1
    assert figures["detection"]["AP50"] == pytest.approx(1)
    assert figures["grounding"]["R@1, any box"] == 1
    assert figures["absent"]["silent"] == figures["untrue"]["silent"] == 0


def test_classes_are_named_by_templates(tmp_path: Path, answer):
    answer(classify=lambda picture, labels: [0.2, 0.8])
    arguments = [class_folder(tmp_path / "set"), "--out", tmp_path / "out", "--template", "a photo of a {}."]
    assert evaluate(*arguments) == 0
    assert report(tmp_path / "out")["figures"]["classification"]["top-1"] == 0.5
    assert "taken for" in (tmp_path / "out" / "report.md").read_text()


def test_a_metric_that_a_set_does_not_allow_is_refused(coco: Path, tmp_path: Path, answer, capsys):
    answer()
    arguments = [coco, "--pictures", tmp_path / "pictures", "--out", tmp_path / "out", "--measures", "retrieval"]
    assert evaluate(*arguments) == 2
    assert "none of ['retrieval'] can be measured on a coco set" in capsys.readouterr().err


def test_an_unreachable_server_is_reported(coco: Path, tmp_path: Path, capsys):
    arguments = [coco, "--pictures", tmp_path / "pictures", "--out", tmp_path / "out", "--limit", "1"]
    assert evaluate(*arguments, "--url", "http://127.0.0.1:9") == 2
    assert "gave no answer" in capsys.readouterr().err


def test_an_unknown_model_is_refused_with_the_known_ones(coco: Path, tmp_path: Path, capsys):
    arguments = [coco, "--pictures", tmp_path / "pictures", "--out", tmp_path / "out"]
    assert evaluate(*arguments, "--model", "clip-mini") == 2
    assert "no model 'clip-mini' can detect; there are ['clip-mini (classify, similarity)'" in capsys.readouterr().err


def test_evaluation_imports_no_torch():
    code = (
        "import sys, models.evaluation.cli, models.evaluation.synthetic_queries, models.pseudo_labels.cli\n"
        "print([m for m in ('torch', 'scipy', 'export', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
