"""The commands without a server: the pipeline's answers as text or JSON, faults as one sentence."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from server.__main__ import main
from tests.server.fakes import FakeDetector, FakeEncoder, picture


@pytest.fixture(autouse=True)
def bundles(monkeypatch, tmp_path):
    def fakes(settings, *, task):
        return [bundle for bundle in (FakeDetector(tmp_path), FakeEncoder(tmp_path)) if task in bundle.tasks]

    monkeypatch.setattr("server.predictor.open_bundles", fakes)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(picture("red", (200, 150)))
    return str(path)


def test_detect_prints_score_label_and_box(photo, capsys):
    assert main(["detect", photo, "--prompt", "a dog. a bicycle."]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0.90  a dog  [58.3, 43.8, 141.7, 106.2]",
        "0.80  a bicycle  [58.3, 43.8, 141.7, 106.2]",
    ]


def test_detect_prints_shares_of_the_image_finely(photo, capsys):
    assert main(["detect", photo, "--labels", "dog", "--box-format", "cxcywhn"]) == 0
    assert capsys.readouterr().out == "0.90  dog  [0.5000, 0.5000, 0.4167, 0.4167]\n"


def test_detect_draws(photo, tmp_path, capsys):
    out = tmp_path / "drawn.png"
    assert main(["detect", photo, "--labels", "dog, cat", "--out", str(out)]) == 0
    assert Image.open(io.BytesIO(out.read_bytes())).size == (200, 150)
    assert "0.90  dog" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.b.PNG", "PNG")],
)
def test_drawing_has_the_format_of_its_suffix(photo, tmp_path, name, kind):
    assert main(["detect", photo, "--labels", "dog", "--out", str(tmp_path / name)]) == 0
    assert Image.open(tmp_path / name).format == kind


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a", ".png"])
def test_drawing_in_another_format_is_refused(photo, tmp_path, capsys, name):
    assert main(["detect", photo, "--labels", "dog", "--out", str(tmp_path / name)]) == 2
    assert "has no suffix of .png, .jpg, .jpeg, .webp" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


@pytest.fixture
def piped(monkeypatch):
    """Puts bytes on standard input."""

    def pipe(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    return pipe


@pytest.mark.parametrize("command", [["detect", "-", "--labels"], ["classify", "-", "--labels"]])
def test_dash_is_standard_input(piped, capsys, command):
    piped(picture("red", (200, 150)))
    assert main([*command, "r,g"]) == 0
    assert "r" in capsys.readouterr().out


def test_dash_stands_beside_files_once(piped, photo, capsys):
    piped(picture("red", (200, 150)))
    assert main(["similarity", "-", photo, "--texts", "r"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["-", photo]
    assert main(["similarity", "-", "--texts", "r"]) == 2
    assert "standard input, which is empty or was read" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://example.com/dog.jpg", "HTTP://example.com/dog.jpg"])
def test_url_is_refused_with_a_clear_word(capsys, url):
    assert main(["detect", url, "--labels", "dog"]) == 2
    assert f"{url} is a URL, and images are not fetched here" in capsys.readouterr().err


def test_detect_prints_the_answer_of_the_endpoint(photo, capsys):
    assert main(["detect", photo, "--labels", "dog,cat", "--json", "--box-threshold", "0.85"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [d["label"] for d in answer["results"][0]["detections"]] == ["dog"]
    assert answer["model"]["name"] == "fake-detector"


def test_detect_has_a_least_score_of_a_label(photo, capsys):
    assert main(["detect", photo, "--labels", "dog,cat", "--threshold", "dog=0.95"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["cat"]
    assert main(["detect", photo, "--labels", "dog,cat", "--threshold", "cow=0.95"]) == 2
    assert "--threshold cow=…: the labels are dog, cat" in capsys.readouterr().err


def test_detect_says_when_nothing_was_found(photo, capsys):
    assert main(["detect", photo, "--labels", "dog,cat", "--box-threshold", "1"]) == 0
    assert capsys.readouterr().out == "none of dog, cat was found\n"


def test_classify_prints_labels_best_first(photo, capsys):
    assert main(["classify", photo, "--labels", "g,r", "--template", "a {}"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["r", "g"]


def test_similarity_takes_several_images_and_texts(photo, capsys):
    other = Path(photo).with_name("other.png")
    other.write_bytes(picture("green"))
    assert main(["similarity", photo, str(other), "--texts", "r", "g"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["similarity", photo, "--texts", "r", "--json", "--embeddings"]) == 0
    assert "embeddings" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["detect", "missing.png", "--labels", "dog"], "there is no file or folder 'missing.png'"),
        (["detect", "PHOTO", "--labels", "dog", "--box-threshold", "7"], "box_threshold: Input should be less"),
        (["detect", "PHOTO", "--labels", "dog", "--model", "yolo"], "there is no model 'yolo'"),
        (["detect", "PHOTO", "--labels", "dog", "--out", "/nowhere/x.png"], "/nowhere/x.png cannot be written"),
        (["detect", __file__, "--labels", "dog"], "test_cli.py is not a picture"),
        (["classify", "PHOTO", "--labels", "dog", "--template", "no place"], "a template must contain {}"),
    ],
)
def test_fault_is_one_sentence_and_status_2(photo, capsys, arguments, named):
    assert main([photo if argument == "PHOTO" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"openset {arguments[0]}: ")
    assert named in captured.err
    assert captured.err.count("\n") == 1


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    for number, colour in enumerate(("red", "green", "red")):
        (pictures / f"{number}.png").write_bytes(picture(colour, (200, 150)))
    (pictures / "below" / "broken.jpg").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture")
    return pictures


@pytest.mark.parametrize("command", [["classify", "--labels", "r,g"], ["similarity", "--texts", "r", "g"]])
def test_folder_is_answered_picture_by_picture(folder, capsys, command):
    assert main([command[0], str(folder), *command[1:]]) == 1  # one picture cannot be read
    printed = capsys.readouterr()
    assert [line.split()[1] for line in printed.out.splitlines()][::2] == [str(folder / f"{n}.png") for n in range(3)]
    assert len(printed.out.splitlines()) == 6
    assert printed.err.startswith(f"openset {command[0]}: {folder}/below/broken.jpg is not a picture")


def test_pattern_names_pictures(folder, capsys):
    assert main(["classify", str(folder / "[01].png"), "--labels", "r,g", "--top-k", "1"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["r", "g"]


def test_answers_of_several_pictures_are_json_lines_with_their_faults(folder, capsys):
    assert main(["detect", str(folder), "--labels", "dog", "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png", "broken.jpg"]
    assert [len(row.get("results", ())) for row in rows] == [1, 1, 1, 0]
    assert "not a picture" in rows[3]["error"]


@pytest.mark.parametrize("options", [["--out", "a.jpg"], ["--out", "a.jpg", "--url", "http://127.0.0.1:9"]])
def test_drawings_of_several_pictures_are_another_commands(folder, capsys, options):
    pictures = folder if len(options) == 2 else folder / "0.png"
    assert main(["detect", str(pictures), "--labels", "dog", *options]) == 2
    assert "openset label … --draw --out FOLDER" in capsys.readouterr().err
