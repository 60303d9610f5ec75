"""The project's own evaluation sets (`python -m models.synthetic.evaluation_set`): what they ask, on top of COCO.

Pictures of one object have no box: they are classified among all names, and compared with sentences about them. Scenes
have a `prompt`, of present and absent names, and may have `phrases`: texts with the annotations they describe, none
where the phrase is untrue of the picture.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.data.coco_evaluator import Box
from models.data.images import DataError, PictureFile
from models.evaluation.metrics import Question
from models.evaluation.questions import GENERATED, Asking, EvaluationSet


@dataclass(frozen=True)
class _Scene:
    picture: PictureFile
    where: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    prompt: tuple[str, ...]
    phrases: list[dict[str, Any]]


def open_generated(folder: Path, *, limit: int | None = None) -> EvaluationSet:
    """The set in a folder; of the first `limit` pictures of one object, and as many scenes."""
    file = folder / GENERATED
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        scenes, names = _scenes(data, folder, file), tuple(str(entry["name"]) for entry in data["categories"])
        place = {entry["id"]: number for number, entry in enumerate(data["categories"])}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no evaluation set: {type(error).__name__}: {error}") from error
    single = [scene for scene in scenes if not scene.prompt][:limit]
    several = [scene for scene in scenes if scene.prompt][:limit]

    def label(scene: _Scene) -> int:
        return place[scene.annotations[0]["category_id"]]

    def classification() -> Iterator[Question]:
        for scene in single:
            yield Question(scene.picture, scene.where, names, scene.size, label(scene))

    def retrieval() -> Iterator[Question]:
        for scene in single:
            yield Question(
                scene.picture, scene.where, (f"a photo of {_with_article(names[label(scene)])}",), scene.size
            )

    def detection() -> Iterator[Question]:
        for scene in several:
            places = tuple(names.index(text) for text in scene.prompt)
            boxes = [Box(0, place[row["category_id"]], _corners(row)) for row in scene.annotations]
            asked = [box for box in boxes if box.label in places]
            yield Question(scene.picture, scene.where, scene.prompt, scene.size, (places, asked))

    def absent() -> Iterator[Question]:
        for scene in several:
            present = {names[place[row["category_id"]]] for row in scene.annotations}
            if texts := tuple(text for text in scene.prompt if text not in present):
                yield Question(scene.picture, scene.where, texts, scene.size)

    def phrases(*, true: bool) -> Iterator[Question]:
        """One by one: a phrase is to be found by what it says, not by what the others leave over."""
        for scene in several:
            corners = {row["id"]: _corners(row) for row in scene.annotations}
            for phrase in scene.phrases:
                boxes = np.asarray([corners[number] for number in phrase["annotations"]], np.float32)
                if bool(len(boxes)) == true:
                    truth = (boxes,) if true else None
                    yield Question(scene.picture, scene.where, (phrase["text"],), scene.size, truth)

    described = [bool(phrase["annotations"]) for scene in several for phrase in scene.phrases]
    askings = {
        "classification": Asking(len(single), classification),
        "retrieval": Asking(len(single), retrieval),
        "detection": Asking(len(several), detection),
        "absent": Asking(len(several), absent),
        "grounding": Asking(sum(described), lambda: phrases(true=True)),
        "untrue": Asking(len(described) - sum(described), lambda: phrases(true=False)),
    }
    return EvaluationSet(str(file), {name: one for name, one in askings.items() if one.count}, names)


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


def _check(scene: _Scene, names: dict[Any, str]) -> None:
    """DataError where a scene has what the categories or its annotations do not."""
    if unknown := sorted(set(scene.prompt) - set(names.values())):
        raise DataError(f"{scene.where}: its prompt has {unknown}, which are no categories")
    if unknown := [row["id"] for row in scene.annotations if row["category_id"] not in names]:
        raise DataError(f"{scene.where}: annotations {unknown} are of no category")
    if not scene.prompt and len(scene.annotations) != 1:
        raise DataError(f"{scene.where} has no prompt and {len(scene.annotations)} annotations; one is expected")
    known = {row["id"] for row in scene.annotations}
    for phrase in scene.phrases:
        if unknown := sorted(set(phrase["annotations"]) - known):
            raise DataError(
                f"{scene.where}: the phrase {phrase['text']!r} names annotations {unknown} it does not have"
            )


def _corners(row: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = row["bbox"]
    return x, y, x + width, y + height


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
