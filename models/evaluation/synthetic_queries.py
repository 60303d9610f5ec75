"""Evaluation sets that `python -m models.synthetic.evaluation_set` wrote: COCO's annotations with prompts and phrases.

Images of one object have no box; they serve classification and retrieval. Scenes have a `prompt` of present and absent
labels, and may have `phrases`: texts with the annotations they refer to, none where a phrase is untrue.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.data.coco_evaluator import GroundTruthBox
from models.data.images import DataError, PictureFile
from models.evaluation.metrics import EvaluationSet, Query, QuerySet

ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class _Scene:
    image: PictureFile
    source: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    prompt: tuple[str, ...]
    phrases: list[dict[str, Any]]

    def query(self, texts: tuple[str, ...], target: Any = None) -> Query:
        return Query(self.image, self.source, texts, self.size, target)


def open_generated(folder: Path, *, limit: int | None = None) -> EvaluationSet:
    """Open the set in a folder, or its first `limit` images of one object and as many scenes."""
    file = folder / ANNOTATIONS
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        scenes, labels = _scenes(data, folder, file), tuple(str(entry["name"]) for entry in data["categories"])
        label_of = {entry["id"]: index for index, entry in enumerate(data["categories"])}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not an evaluation set: {type(error).__name__}: {error}") from error
    singles = [scene for scene in scenes if not scene.prompt][:limit]
    several = [scene for scene in scenes if scene.prompt][:limit]

    def classification() -> Iterator[Query]:
        for scene in singles:
            yield scene.query(labels, label_of[scene.annotations[0]["category_id"]])

    def retrieval() -> Iterator[Query]:
        for scene in singles:
            label = labels[label_of[scene.annotations[0]["category_id"]]]
            yield scene.query((f"a photo of {'an' if label[:1].lower() in 'aeiou' else 'a'} {label}",))

    def detection() -> Iterator[Query]:
        for scene in several:
            asked = tuple(labels.index(text) for text in scene.prompt)
            boxes = [GroundTruthBox(0, label_of[row["category_id"]], _corners(row)) for row in scene.annotations]
            yield scene.query(scene.prompt, (asked, [box for box in boxes if box.label in asked]))

    def absent() -> Iterator[Query]:
        for scene in several:
            present = {labels[label_of[row["category_id"]]] for row in scene.annotations}
            if texts := tuple(text for text in scene.prompt if text not in present):
                yield scene.query(texts)

    def phrases(*, true: bool) -> Iterator[Query]:
        """One phrase a query, so that it is found by its own words and not by elimination."""
        for scene in several:
            corners = {row["id"]: _corners(row) for row in scene.annotations}
            for phrase in scene.phrases:
                boxes = np.asarray([corners[index] for index in phrase["annotations"]], np.float32)
                if bool(len(boxes)) == true:
                    yield scene.query((phrase["text"],), (boxes,) if true else None)

    truths = [bool(phrase["annotations"]) for scene in several for phrase in scene.phrases]
    queries = {
        "classification": QuerySet(len(singles), classification),
        "retrieval": QuerySet(len(singles), retrieval),
        "detection": QuerySet(len(several), detection),
        "absent": QuerySet(len(several), absent),
        "grounding": QuerySet(sum(truths), lambda: phrases(true=True)),
        "untrue": QuerySet(len(truths) - sum(truths), lambda: phrases(true=False)),
    }
    return EvaluationSet(str(file), {name: some for name, some in queries.items() if some.count}, labels)


def _scenes(data: dict[str, Any], folder: Path, file: Path) -> list[_Scene]:
    rows: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    for row in data["annotations"]:
        rows[row["image_id"]].append(row)
    scenes = [
        _Scene(
            PictureFile(folder / image["file_name"]),
            f"{file}: image id {image['id']}",
            (image["height"], image["width"]),
            rows[image["id"]],
            tuple(image.get("prompt", ())),
            image.get("phrases", []),
        )
        for image in data["images"]
    ]
    for scene in scenes:
        _check(scene, {entry["id"]: entry["name"] for entry in data["categories"]})
    return scenes


def _check(scene: _Scene, labels: dict[Any, str]) -> None:
    """Raise DataError for references to unknown categories or annotations."""
    if unknown := sorted(set(scene.prompt) - set(labels.values())):
        raise DataError(f"{scene.source}: its prompt has {unknown}, which are not categories")
    if unknown := [row["id"] for row in scene.annotations if row["category_id"] not in labels]:
        raise DataError(f"{scene.source}: annotations {unknown} have an unknown category")
    if not scene.prompt and len(scene.annotations) != 1:
        raise DataError(f"{scene.source} has no prompt and {len(scene.annotations)} annotations; one is expected")
    known = {row["id"] for row in scene.annotations}
    for phrase in scene.phrases:
        if unknown := sorted(set(phrase["annotations"]) - known):
            raise DataError(f"{scene.source}: the phrase {phrase['text']!r} refers to unknown annotations {unknown}")


def _corners(row: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = row["bbox"]
    return x, y, x + width, y + height
