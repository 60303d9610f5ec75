"""What sets ask, by format: the small sets of coloured squares that training is tested on, and the generated one."""

import json
from pathlib import Path

import pytest
from PIL import Image

from models.data.images import BrokenPicture, DataError, PictureFile
from models.evaluation.image_bytes import sent
from models.evaluation.questions import format_of, open_set
from tests.models.data import annotated_sets as sets


def questions(found, measure):
    one = found.askings[measure]
    drawn = list(one.questions())
    assert len(drawn) <= one.count
    return drawn


def test_coco_asks_for_every_category_and_for_some_that_are_absent(tmp_path: Path):
    data = sets.coco(tmp_path)
    found = open_set(tmp_path / "coco.json", "coco", pictures=tmp_path / "pictures")
    detection, absent = questions(found, "detection"), questions(found, "absent")
    assert len(detection) == len(absent) == len(data["images"])
    assert all(one.texts == sets.NAMES for one in detection)
    for one, other in zip(detection, absent, strict=True):
        present = {sets.NAMES[box.label] for box in one.truth[1]}
        assert present
        assert present | set(other.texts) == set(sets.NAMES)
        assert not present & set(other.texts)
    assert [one.texts for one in absent] == [one.texts for one in questions(found, "absent")]


def test_coco_boxes_keep_their_areas_and_crowds(tmp_path: Path):
    data = sets.coco(tmp_path)
    first = data["annotations"][0]
    first["area"] = 7.5
    data["annotations"].append({**first, "id": 99, "iscrowd": 1, "bbox": [0, 0, 50, 50]})
    sets.rewrite(tmp_path, data)
    found = open_set(tmp_path / "coco.json", "coco", pictures=tmp_path / "pictures")
    one, crowd = questions(found, "detection")[0].truth[1]
    assert (one.area, one.crowd, crowd.crowd) == (7.5, False, True)
    x, y, width, height = first["bbox"]
    assert one.box == (x, y, x + width, y + height)


def test_only_categories_that_were_looked_for_are_asked_for(tmp_path: Path):
    data = sets.coco(tmp_path)  # picture 0 shows a red square
    for image in data["images"]:
        image["neg_category_ids"] = [12]
    sets.rewrite(tmp_path, data)
    found = open_set(tmp_path / "coco.json", "coco", pictures=tmp_path / "pictures")
    assert questions(found, "detection")[0].texts == ("red", "blue")
    assert questions(found, "absent")[0].texts == ("blue",)


def test_odvg_is_measured_by_category_and_by_phrase(tmp_path: Path):
    lines = sets.odvg(tmp_path)
    labels = tmp_path / "labels.json"
    found = open_set(tmp_path / "odvg.jsonl", "odvg", pictures=tmp_path / "pictures", label_map=labels)
    grounding = questions(found, "grounding")
    assert len(grounding) == sum("grounding" in line for line in lines) == 4
    assert len(questions(found, "detection")) == 2
    assert grounding[1].texts == ("a green square", "a blue square")
    assert [len(boxes) for boxes in grounding[1].truth] == [1, 1]


def test_regions_of_one_phrase_are_one_question(tmp_path: Path):
    lines = sets.odvg(tmp_path, 1)
    regions = lines[0]["grounding"]["regions"]
    regions.append({**regions[0], "bbox": [1, 2, 3, 4]})
    sets.write_lines(tmp_path / "odvg.jsonl", lines)
    (one,) = questions(open_set(tmp_path / "odvg.jsonl", "odvg", pictures=tmp_path / "pictures"), "grounding")
    assert (one.texts, [len(boxes) for boxes in one.truth]) == (("a red square",), [2])


def test_captions_are_for_retrieval(tmp_path: Path):
    found = open_set(sets.captions(tmp_path / "captions"), "captions", limit=3)
    assert [one.texts for one in questions(found, "retrieval")] == [
        ("a red square",),
        ("a green square", "a blue square"),
        ("a blue square",),
    ]


def class_folder(folder: Path) -> Path:
    for name in ("ice_cream", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    return folder


def test_folders_are_classes(tmp_path: Path):
    found = open_set(class_folder(tmp_path / "set"), "classes")
    asked = questions(found, "classification")
    assert found.names == ("dog", "ice cream")
    assert [found.names[one.truth] for one in asked] == ["dog", "dog", "ice cream", "ice cream"]


def test_a_label_map_names_the_classes_and_must_name_all(tmp_path: Path):
    folder, labels = class_folder(tmp_path / "set"), tmp_path / "labels.json"
    labels.write_text('{"dog": "a puppy", "ice_cream": "gelato"}')
    assert open_set(folder, "classes", label_map=labels).names == ("a puppy", "gelato")
    labels.write_text('{"dog": "a puppy"}')
    with pytest.raises(DataError, match=r"labels.json has no \['ice_cream'\]"):
        open_set(folder, "classes", label_map=labels)


def generated(folder: Path) -> Path:
    """A picture of one object and a scene with a true and an untrue phrase, as evaluation_set.py writes them."""
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (80, 60)).save(folder / f"000{number}.png")
    images = [{"id": number, "height": 60, "width": 80, "file_name": f"000{number}.png"} for number in range(2)]
    images[1] |= {
        "prompt": ["cat", "dog", "owl"],
        "caption": "a red dog",
        "phrases": [{"text": "red dog", "annotations": [1]}, {"text": "blue dog", "annotations": []}],
    }
    rows = [
        {"id": 0, "image_id": 0, "category_id": 2},
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
    ]
    names = [{"id": place, "name": name} for place, name in enumerate(("cat", "dog", "owl"))]
    data = {"images": images, "annotations": rows, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


def test_a_generated_set_asks_everything(tmp_path: Path):
    found = open_set(generated(tmp_path / "set"), "generated")
    assert {name: one.count for name, one in found.askings.items()} == dict.fromkeys(
        ("classification", "retrieval", "detection", "absent", "grounding", "untrue"), 1
    )
    (detection,), (grounding,) = questions(found, "detection"), questions(found, "grounding")
    assert detection.texts == ("cat", "dog", "owl")
    assert [(box.label, box.box) for box in detection.truth[1]] == [(1, (10, 10, 30, 40))]
    assert (grounding.texts, grounding.truth[0].tolist()) == (("red dog",), [[10, 10, 30, 40]])
    assert [one.texts for one in questions(found, "absent")] == [("cat", "owl")]
    assert [one.texts for one in questions(found, "untrue")] == [("blue dog",)]
    assert [one.texts for one in questions(found, "retrieval")] == [("a photo of an owl",)]
    assert [one.truth for one in questions(found, "classification")] == [2]


@pytest.mark.parametrize(
    ("image", "change", "message"),
    [
        (1, {"prompt": ["bird"]}, r"image id 1: its prompt has \['bird'\]"),
        (
            1,
            {"phrases": [{"text": "a dog", "annotations": [7]}]},
            r"image id 1: the phrase 'a dog' names annotations \[7\]",
        ),
        (0, {"id": 5}, "KeyError: 0"),
    ],
)
def test_faults_of_a_generated_set_are_named(tmp_path: Path, image: int, change: dict, message: str):
    file = generated(tmp_path / "set") / "annotations.json"
    data = json.loads(file.read_text())
    data["images"][image] |= change
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        open_set(tmp_path / "set", "generated")


def test_formats_are_told_by_what_lies_there(tmp_path: Path):
    assert format_of(tmp_path / "a.json") == "coco"
    assert format_of(tmp_path / "a.jsonl") == "odvg"
    assert format_of(tmp_path / "a.tsv") == "captions"
    assert format_of(generated(tmp_path / "generated")) == "generated"
    assert format_of(sets.captions(tmp_path / "captions")) == "captions"
    assert format_of(class_folder(tmp_path / "classes")) == "classes"
    with pytest.raises(DataError, match=r"a\.parquet is neither a folder nor"):
        format_of(tmp_path / "a.parquet")


def test_a_faulty_record_is_named(tmp_path: Path):
    data = sets.coco(tmp_path)
    data["annotations"][2]["bbox"] = [1, 2]
    sets.rewrite(tmp_path, data)
    with pytest.raises(DataError, match=r"coco.json: annotation id 2: a box is \[1, 2\]"):
        open_set(tmp_path / "coco.json", "coco", pictures=tmp_path / "pictures")
    found = open_set(tmp_path / "coco.json", "coco", pictures=tmp_path / "pictures", skip=True)
    assert (found.skipped, sum(len(one.truth[1]) for one in questions(found, "detection"))) == (1, 8)


def test_a_picture_is_sent_as_it_is_or_as_it_was_annotated(tmp_path: Path):
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (80, 60), "red").save(file, exif=exif)
    plain = tmp_path / "plain.jpg"
    Image.new("RGB", (80, 60)).save(plain)
    assert sent(PictureFile(plain), (60, 80)) == (plain.read_bytes(), (60, 80))
    for size in ((60, 80), (80, 60)):  # annotated as stored, as shown
        data, told = sent(PictureFile(file), size)
        (tmp_path / "sent").write_bytes(data)
        with Image.open(tmp_path / "sent") as image:
            assert told == size == (image.height, image.width)
            assert image.getexif().get(0x0112, 1) == 1
    with pytest.raises(BrokenPicture, match=r"plain.jpg: the picture is 60 x 80"):
        sent(PictureFile(plain), (61, 80))
