import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from models.training import evaluate
from models.training.evaluation_set import ANNOTATIONS, EvaluationSet, main, read_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set")
    assert main([str(out), "--single", "4", "--scenes", "4", "--seed", "7"]) == 0
    return out


@pytest.fixture(scope="module")
def pictures(folder: Path) -> EvaluationSet:
    return read_set(folder)


def test_a_set_has_the_pictures_asked_for(pictures: EvaluationSet):
    assert len(pictures.single) == len(pictures.scenes) == 4
    with Image.open(pictures.scenes[0].file) as image:
        assert min(image.size) >= 320


def test_prompts_name_every_present_object_and_absent_ones(pictures: EvaluationSet):
    for picture in pictures.scenes:
        present = {thing.label for thing in picture.objects}
        assert present < set(picture.prompt)
        assert len(set(picture.prompt)) == len(picture.prompt)


def test_boxes_are_written_as_coco_does(folder: Path, pictures: EvaluationSet):
    row = next(row for row in json.loads((folder / ANNOTATIONS).read_text())["annotations"] if "bbox" in row)
    x, y, width, height = row["bbox"]
    assert pictures.scenes[0].objects[0].box == (x, y, x + width, y + height)


class Oracle(BaseHTTPRequestHandler):
    """Answers as a perfect server would, but finds no second object of a scene."""

    truth: EvaluationSet

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        number = int(body.split(b'filename="')[1][:4])
        picture = next(p for p in (*self.truth.single, *self.truth.scenes) if int(p.file.stem) == number)
        if self.path == "/classify":
            result: dict[str, object] = {"scores": [{"label": picture.objects[0].label, "label_id": 0, "score": 1.0}]}
        else:
            thing = picture.objects[0]
            found = {"box": thing.box, "label": thing.label, "label_id": 0, "score": 0.9}
            result = {"detections": [found] if f"\r\n{thing.label}\r\n".encode() in body else []}
        answer = json.dumps({"results": [result]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(pictures: EvaluationSet) -> Iterator[str]:
    Oracle.truth = pictures
    server = HTTPServer(("127.0.0.1", 0), Oracle)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_perfect_classifier_scores_one(url: str, pictures: EvaluationSet):
    figures = evaluate.measure_classification(evaluate.Client(url), pictures.single, pictures.names, "any")
    assert [figure.value for figure in figures] == [1.0, 1.0]


def test_missed_objects_cost_average_precision(url: str, pictures: EvaluationSet):
    figures = evaluate.measure_detection(evaluate.Client(url), pictures.scenes, "any")
    total, found = sum(len(p.objects) for p in pictures.scenes), len(pictures.scenes)
    assert total > found
    assert figures[1].value == pytest.approx((int(100 * found / total) + 1) / 101)


def test_a_detector_that_finds_only_what_is_there_is_silent_about_the_absent(url: str, pictures: EvaluationSet):
    figure = evaluate.measure_silence(evaluate.Client(url), pictures.scenes, "any")
    assert (figure.value, figure.pictures) == (1.0, len(pictures.scenes))


def test_the_command_prints_a_table(url: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate.main([str(folder), "--url", url]) == 0
    assert "| top-1 | 1.000 | 4 |" in capsys.readouterr().out
