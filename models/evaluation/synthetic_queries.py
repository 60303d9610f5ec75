"""Evaluation sets that `python -m models.synthetic.evaluation_set` wrote: COCO's annotations with prompts and phrases.

Images of one object have no box; they serve classification and retrieval. Scenes have a `prompt` of present and absent
labels, and may have `phrases`: texts with the annotations they refer to, none where a phrase is untrue.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from models.data.categories import CategoryNames
from models.data.coco import CocoCategory, CocoImage, entry_name, read_coco, unique_entries
from models.data.coco_evaluator import GroundTruthBox
from models.data.entries import Box, DataEntry, FourNumbers, Id, Words, box_array, checked, fitted_box, shown
from models.data.faults import Faults, RecordFault
from models.data.images import PictureFile
from models.evaluation.metrics import EvaluationSet, Query, QuerySet

ANNOTATIONS = "annotations.json"


class GeneratedImage(CocoImage):
    """An image of one object, without a prompt, or a scene."""

    prompt: list[Words] = Field([], description="a list of names of categories is expected")
    phrases: list[Any] = Field([], description="a list of objects is expected")


class GeneratedObject(DataEntry):
    """An annotation, which in a scene has a box."""

    kind: ClassVar[str] = "annotation"
    id: Id = Field(description="an integer or a text is expected")
    image_id: Id = Field(description="the id of an image is expected")
    category_id: Id = Field(description="the id of a category is expected")
    bbox: FourNumbers | None = Field(None, description="four finite numbers x, y, width, height are expected")


class GeneratedPhrase(DataEntry):
    """A text, and the ids of the annotations it refers to: none where it is untrue."""

    kind: ClassVar[str] = "phrase"
    text: Words = Field(description="a text that is not blank is expected")
    annotations: list[Id] = Field(description="a list of ids of annotations is expected")


@dataclass(frozen=True)
class _Scene:
    """An image with the labels of its objects, in a scene also boxes by annotation, and phrases with their boxes."""

    image: PictureFile
    source: str
    size: tuple[int, int] | None
    present: tuple[int, ...]
    boxes: tuple[Box, ...]
    prompt: tuple[str, ...]
    phrases: tuple[tuple[str, tuple[Box, ...]], ...]

    def query(self, texts: tuple[str, ...], target: Any = None) -> Query:
        return Query(self.image, self.source, texts, self.size, target)


class _SceneReader:
    """Makes scenes of checked images and objects."""

    def __init__(self, file: Path, labels: Mapping[int | str, int], names: CategoryNames) -> None:
        self._file, self._labels, self._names = file, labels, names
        self._objects: dict[int | str, list[GeneratedObject]] = {}

    def add_objects(self, values: list[Any], images: Sequence[GeneratedImage], faults: Faults) -> None:
        """Check the annotations, and keep them by image."""
        ids = {image.id for image in images}
        for found in faults.kept(enumerate(values), lambda one: self._object(*one, ids)):
            self._objects.setdefault(found.image_id, []).append(found)

    def scene(self, image: GeneratedImage) -> _Scene:
        """The scene of an image; DataError names what is wrong with it."""
        source = f"{self._file}: image id {shown(image.id)}"
        objects = self._objects.get(image.id, [])
        if unknown := [text for text in image.prompt if self._names.place(text) is None]:
            raise RecordFault(
                f"{source}: its prompt has {shown(unknown)}, which are not categories", kind="image prompt"
            )
        if not image.prompt and len(objects) != 1:
            message = f"{source} has no prompt and {len(objects)} annotations; one is expected"
            raise RecordFault(message, kind="image prompt")
        boxes = {one.id: self._box(one, image) for one in objects} if image.prompt else {}
        if len(boxes) < len(objects) and image.prompt:
            raise RecordFault(f"{source}: an annotation id of it occurs twice", kind="annotation id")
        return _Scene(
            PictureFile(self._file.parent / image.file_name),
            source,
            image.size,
            tuple(self._labels[one.category_id] for one in objects),
            tuple(boxes.values()),
            tuple(self._names.names[self._names.add(text)] for text in image.prompt),
            tuple(self._phrase(value, boxes, source) for value in image.phrases),
        )

    def _object(self, number: int, value: Any, images: Collection[int | str]) -> GeneratedObject:
        where = entry_name(GeneratedObject, number, value, str(self._file))
        found = checked(GeneratedObject, value, where)
        if found.image_id not in images:
            message = f"{where}: its image id {shown(found.image_id)} is not among the images"
            raise RecordFault(message, kind="annotation image_id")
        if found.category_id not in self._labels:
            message = f"{where}: its category id {shown(found.category_id)} is not among the categories"
            raise RecordFault(message, kind="annotation category_id")
        return found

    def _box(self, found: GeneratedObject, image: GeneratedImage) -> Box:
        where = f"{self._file}: annotation id {shown(found.id)}"
        if found.bbox is None:
            raise RecordFault(f"{where} has no bbox; in a scene one is expected", kind="annotation bbox")
        x, y, width, height = found.bbox
        return fitted_box((x, y, x + width, y + height), image.size, where, kind="annotation bbox")

    def _phrase(self, value: Any, boxes: Mapping[int | str, Box], source: str) -> tuple[str, tuple[Box, ...]]:
        phrase = checked(GeneratedPhrase, value, f"{source}: a phrase")
        if unknown := [one for one in phrase.annotations if one not in boxes]:
            message = f"{source}: the phrase {shown(phrase.text)} refers to unknown annotations {shown(unknown)}"
            raise RecordFault(message, kind="phrase annotations")
        return phrase.text, tuple(boxes[one] for one in phrase.annotations)


def open_generated(folder: Path, *, limit: int | None = None, skip: bool = False) -> EvaluationSet:
    """Open the set in a folder, or its first `limit` images of one object and as many scenes.

    A faulty image raises DataError, or with `skip` is left out and counted.
    """
    file = folder / ANNOTATIONS
    data, faults, names = read_coco(file), Faults(str(file), skip=skip), CategoryNames()
    categories = unique_entries(CocoCategory, data["categories"], str(file), faults)
    reader = _SceneReader(file, {one.id: names.add(one.name) for one in categories}, names)
    labels = names.names
    images = unique_entries(GeneratedImage, data["images"], str(file), faults)
    reader.add_objects(data["annotations"], images, faults)
    scenes = list(faults.kept(images, reader.scene))
    faults.log()
    if not scenes:
        raise faults.no_record()
    singles = [scene for scene in scenes if not scene.prompt][:limit]
    several = [scene for scene in scenes if scene.prompt][:limit]

    def classification() -> Iterator[Query]:
        for scene in singles:
            yield scene.query(labels, scene.present[0])

    def retrieval() -> Iterator[Query]:
        for scene in singles:
            label = labels[scene.present[0]]
            yield scene.query((f"a photo of {'an' if label[:1].lower() in 'aeiou' else 'a'} {label}",))

    def detection() -> Iterator[Query]:
        for scene in several:
            asked = tuple(labels.index(text) for text in scene.prompt)
            boxes = [GroundTruthBox(0, *pair) for pair in zip(scene.present, scene.boxes, strict=True)]
            yield scene.query(scene.prompt, (asked, [box for box in boxes if box.label in asked]))

    def absent() -> Iterator[Query]:
        for scene in several:
            present = {labels[label] for label in scene.present}
            if texts := tuple(text for text in scene.prompt if text not in present):
                yield scene.query(texts)

    def phrases(*, true: bool) -> Iterator[Query]:
        """One phrase a query, so that it is found by its own words and not by elimination."""
        for scene in several:
            for text, boxes in scene.phrases:
                if bool(boxes) == true:
                    yield scene.query((text,), (box_array(boxes),) if true else None)

    truths = [bool(boxes) for scene in several for _, boxes in scene.phrases]
    queries = {
        "classification": QuerySet(len(singles), classification),
        "retrieval": QuerySet(len(singles), retrieval),
        "detection": QuerySet(len(several), detection),
        "absent": QuerySet(len(several), absent),
        "grounding": QuerySet(sum(truths), lambda: phrases(true=True)),
        "untrue": QuerySet(len(truths) - sum(truths), lambda: phrases(true=False)),
    }
    return EvaluationSet(str(file), {name: some for name, some in queries.items() if some.count}, labels, faults.counts)
