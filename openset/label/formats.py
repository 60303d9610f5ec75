"""Writers of a job's results: COCO, YOLO, Pascal VOC, CSV, Parquet, Label Studio and drawn pictures.

The formats are written here rather than by supervision, which would decode and encode every picture again by OpenCV,
and keeps no scores in most of them.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as xml

from openset.label.derived_files import copy, remove_others
from openset.label.results_log import PictureResult, ResultsLog
from openset.results import Detection, ImageDetections
from openset.sources import printable

COLUMNS = ("image", "label", "score", "x0", "y0", "x1", "y1", "width", "height")
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")  # that JSON leaves as they are


@dataclass(frozen=True)
class Labelled:
    """Results to write: `categories` are the labels by label_id, pictures lie below `root`, frames below `frames`."""

    log: ResultsLog
    root: Path
    frames: Path
    categories: Mapping[int, str]
    model: str

    def results(self) -> Iterator[PictureResult]:
        """Results of the pictures that could be read, by name."""
        return iter(sorted((each for each in self.log.read() if each.error is None), key=lambda each: each.image))

    def stems(self) -> Iterator[tuple[PictureResult, str]]:
        """Results with the name of each picture without its suffix, unique even for cat.jpg beside cat.png.

        They come in the order of the log, so that a run that goes on gives no picture another's name. A folder called
        images is renamed: readers of YOLO sets look for labels beside the last one of a path.
        """
        taken: set[str] = set()
        for each in self.log.read():
            if each.error is not None:
                continue
            *folders, name = each.image.split("/")
            place = "".join(f"{'images_' if folder == 'images' else folder}/" for folder in folders)
            stem = place + name.removesuffix(Path(name).suffix)
            if stem.lower() in taken:
                stem = place + name.replace(".", "_")
            while stem.lower() in taken:  # some disks take A.txt for a.txt
                stem += "_"
            taken.add(stem.lower())
            yield each, stem

    def path(self, name: str) -> Path:
        """Path of a picture or of a video's frame."""
        path = self.root / name
        return path if path.is_file() else self.frames / name

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """A row of COLUMNS for each detection."""
        for each in self.results():
            for found in each.detections:
                yield each.image, found.label, found.score, *found.box, each.width, each.height


def write_coco(labelled: Labelled, folder: Path) -> Path:
    """`coco.json`: images, categories (ids from 1) and annotations with their `score`."""
    numbers = {label_id: number for number, label_id in enumerate(labelled.categories, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, each in enumerate(labelled.results(), 1):
        images.append({"id": image_id, "file_name": each.image, "width": each.width, "height": each.height})
        for found in each.detections:
            x, y, width, height = _boxes(each, "xywh", found)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[found.label_id],
                    "bbox": [x, y, width, height],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": found.score,
                }
            )
    categories = [{"id": numbers[label_id], "name": name} for label_id, name in labelled.categories.items()]
    info = {"description": f"Labelled by {labelled.model} with Openset; not reviewed"}
    data = {"info": info, "images": images, "categories": categories, "annotations": annotations}
    return _write_text(folder / "coco.json", json.dumps(data, ensure_ascii=False))


def write_yolo(labelled: Labelled, folder: Path) -> Path:
    """`yolo/`: a data set with `data.yaml`, `images`, which are copies, and `labels`."""
    target = folder / "yolo"
    numbers = {label_id: number for number, label_id in enumerate(labelled.categories)}
    written: set[Path] = set()
    for each, stem in labelled.stems():
        picture = target / "images" / (stem + Path(each.image).suffix)
        copy(labelled.path(each.image), picture)
        lines = [
            " ".join([str(numbers[found.label_id]), *(f"{side:.6f}" for side in _boxes(each, "cxcywhn", found))])
            for found in each.detections
        ]
        labels = _write_text(target / "labels" / f"{stem}.txt", "".join(line + "\n" for line in lines))
        written |= {picture, labels}
    for part in ("images", "labels"):
        remove_others(target / part, written)
    names = json.dumps(list(labelled.categories.values()), ensure_ascii=False)  # JSON is YAML, but for a few characters
    names = _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", names)
    _write_text(target / "data.yaml", f"train: images\nval: images\nnames: {names}\n")
    return target


def write_voc(labelled: Labelled, folder: Path) -> Path:
    """`voc/Annotations/`: an XML file for each picture, boxes in whole pixels from 1."""
    target = folder / "voc" / "Annotations"
    written: set[Path] = set()
    for each, stem in labelled.stems():
        root = xml.Element("annotation")
        _add(root, folder=printable(labelled.root.name), filename=each.image)
        _add(xml.SubElement(root, "source"), database="Openset", annotation=labelled.model)
        _add(xml.SubElement(root, "size"), width=each.width, height=each.height, depth=3)
        _add(root, segmented=0)
        for found in each.detections:
            box = xml.SubElement(root, "object")
            _add(box, name=found.label, pose="Unspecified", truncated=0, difficult=0, score=found.score)
            x0, y0, x1, y1 = found.box
            _add(
                xml.SubElement(box, "bndbox"),
                xmin=min(int(x0) + 1, each.width),
                ymin=min(int(y0) + 1, each.height),
                xmax=min(max(round(x1), int(x0) + 1), each.width),
                ymax=min(max(round(y1), int(y0) + 1), each.height),
            )
        written.add(_write_text(target / f"{stem}.xml", _xml_text(root)))
    remove_others(target, written)
    return target


def write_csv(labelled: Labelled, folder: Path) -> Path:
    """`detections.csv`: a row for each detection, boxes in pixels."""
    target = folder / "detections.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(labelled.rows())
    return target


def write_parquet(labelled: Labelled, folder: Path) -> Path:
    """`detections.parquet`: the rows of the CSV, typed (extra `label`)."""
    import pyarrow
    from pyarrow import parquet

    target = folder / "detections.parquet"
    kinds = [pyarrow.string()] * 2 + [pyarrow.float32()] * 5 + [pyarrow.int32()] * 2
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    columns = list(zip(*labelled.rows(), strict=True)) or [()] * len(COLUMNS)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), target)
    return target


def write_label_studio(labelled: Labelled, folder: Path) -> Path:
    """`label-studio/`: `tasks.json` with pre-annotations, and the labelling interface `config.xml`.

    Pictures are named as Label Studio's local storage serves them, with the job's root as its document root.
    """
    target = folder / "label-studio"
    tasks = []
    for each in labelled.results():
        regions = []
        for found in each.detections:
            x, y, width, height = (round(side * 100, 4) for side in _boxes(each, "xywhn", found))
            value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [found.label]}
            regions.append(
                {
                    "from_name": "label", "to_name": "image", "type": "rectanglelabels", "score": found.score,
                    "original_width": each.width, "original_height": each.height, "image_rotation": 0, "value": value,
                }
            )  # fmt: skip
        score = max((found.score for found in each.detections), default=0.0)
        prediction = {"model_version": labelled.model, "score": score, "result": regions}
        address = "/data/local-files/?d=" + quote(each.image)
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    view = xml.Element("View")
    xml.SubElement(view, "Image", name="image", value="$image")
    labels = xml.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in labelled.categories.values():
        xml.SubElement(labels, "Label", value=name)
    _write_text(target / "config.xml", _xml_text(view))
    _write_text(target / "tasks.json", json.dumps(tasks, ensure_ascii=False))
    return target


FORMATS: dict[str, Callable[[Labelled, Path], Path]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "csv": write_csv,
    "parquet": write_parquet,
    "label-studio": write_label_studio,
}
# Modules that only a format needs, by its name.
NEEDS = {"parquet": "pyarrow.parquet"}


def _boxes(each: PictureResult, box_format: Any, found: Detection) -> tuple[float, float, float, float]:
    """One box in another format, as the client converts it."""
    picture = ImageDetections(width=each.width, height=each.height, labels=[], detections=[found])
    return picture.boxes(box_format)[0]


def _add(parent: xml.Element, **values: object) -> None:
    for name, value in values.items():
        xml.SubElement(parent, name).text = str(value)


def _xml_text(root: xml.Element) -> str:
    """An indented document, without the characters that XML cannot hold, as names of files may have them."""
    xml.indent(root)
    return _NOT_XML.sub("\ufffd", xml.tostring(root, encoding="unicode")) + "\n"


def _write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path
