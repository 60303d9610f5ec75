"""Evaluation sets: fresh pictures with known content, as PNG files and one COCO-like `annotations.json`.

python -m models.synthetic.evaluation_set OUT --sprites PACK --seed 7
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.synthetic.scene_captions import caption, recoloured
from models.synthetic.scene_prompts import SceneContents
from models.synthetic.scenes import HARD, SceneConfig, SceneGenerator, to_image
from models.synthetic.sprites import NAMES_FILE, SMALL_PACK, STYLES, NamedObject, load_pack, read_names

ANNOTATIONS = "annotations.json"
SIZES = ((480, 640), (640, 480), (360, 640), (427, 640), (512, 512), (320, 320))
SINGLE = SceneConfig(smallest=0.4, largest=1.0)
SCENES = SceneConfig(smallest=0.2, largest=0.6, most_objects=5)
HARD_SINGLE = replace(HARD, smallest=0.4, largest=1.0)
HARD_SCENES = replace(HARD, smallest=0.1, largest=0.6, most_objects=5, painted=0.15)
FEWEST_LABELS, MOST_LABELS = 6, 14


@dataclass(frozen=True)
class Thing:
    """An object in a picture; box x0, y0, x1, y1 in pixels."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Description:
    """A phrase that says more than a name, and the boxes of what it describes, none where it is untrue."""

    text: str
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows, and the labels to ask for (present and absent ones; none for single objects).

    A scene has a caption as well, and descriptions: the caption's phrases, and some in a wrong colour.
    """

    file: Path
    objects: tuple[Thing, ...]
    prompt: tuple[str, ...]
    caption: str = ""
    descriptions: tuple[Description, ...] = ()


@dataclass(frozen=True)
class EvaluationSet:
    """All names, pictures of one object, and scenes of several."""

    names: tuple[str, ...]
    single: tuple[Picture, ...]
    scenes: tuple[Picture, ...]


def write_set(
    folder: Path, generator: SceneGenerator, *, single: int, scenes: int, seed: int, hard: bool = False
) -> None:
    """Write `single` pictures of one object and `scenes` scenes into `folder`; `hard`: as the recipes have them."""
    alone, several = (HARD_SINGLE, HARD_SCENES) if hard else (SINGLE, SCENES)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names = [item.label for item in generator.objects]
    rng = random.Random(seed)
    for number in range(single + scenes):
        size = SIZES[number % len(SIZES)]
        image: dict[str, Any] = {"id": number, "height": size[0], "width": size[1], "file_name": f"{number:04d}.png"}
        if number < single:
            one = generator.single(1, size, alone)
            pixels, present, boxes = one.pixels[0], one.objects.tolist(), []
        else:
            batch = generator.scenes(1, size, several)
            pixels, present, boxes = batch.pixels[0], batch.objects[0].tolist(), batch.boxes_xyxy[0].tolist()
            image["prompt"] = _prompt(present, names, rng)
            shown = SceneContents(present, boxes, batch.colours[0].tolist(), size)
            image |= _described(shown, generator.objects, len(annotations), rng)
        to_image(pixels).save(folder / image["file_name"])
        images.append(image)
        for place, index in enumerate(present):
            row = {"id": len(annotations), "image_id": number, "category_id": index}
            if boxes:
                box = boxes[place]
                # COCO's boxes are x, y, width, height.
                row |= {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "iscrowd": 0}
                row["area"] = row["bbox"][2] * row["bbox"][3]
            annotations.append(row)
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / ANNOTATIONS).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _described(shown: SceneContents, objects: Sequence[NamedObject], first: int, rng: random.Random) -> dict[str, Any]:
    """A caption and its phrases, with the annotations of each, which count from `first`."""
    made = caption(shown, objects, rng)
    phrases = [
        {"text": made.text[part.start : part.end], "annotations": [first + row for row in part.rows]}
        for part in made.phrases
    ]
    untrue = [recoloured(str(phrase["text"]), rng) for phrase in phrases]
    return {
        "caption": made.text,
        "phrases": [*phrases, *({"text": text, "annotations": []} for text in untrue if text is not None)],
    }


def _prompt(present: Sequence[int], names: Sequence[str], rng: random.Random) -> list[str]:
    """The present objects and enough absent ones, in random order."""
    named = sorted(set(present))
    others = [index for index in range(len(names)) if index not in named]
    count = max(rng.randint(FEWEST_LABELS, MOST_LABELS), len(named) + 2)
    order = [*named, *rng.sample(others, min(len(others), count - len(named)))]
    rng.shuffle(order)
    return [names[index] for index in order]


def read_set(folder: Path) -> EvaluationSet:
    """The evaluation set in `folder`."""
    data = json.loads((folder / ANNOTATIONS).read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in data["categories"]}
    things: dict[int, list[Thing]] = {image["id"]: [] for image in data["images"]}
    boxes: dict[int, tuple[float, float, float, float]] = {}
    for row in data["annotations"]:
        x, y, width, height = row.get("bbox", (0.0, 0.0, 0.0, 0.0))
        boxes[row["id"]] = (x, y, x + width, y + height)
        things[row["image_id"]].append(Thing(names[row["category_id"]], boxes[row["id"]]))
    pictures = [
        Picture(
            folder / image["file_name"],
            tuple(things[image["id"]]),
            tuple(image.get("prompt", ())),
            image.get("caption", ""),
            tuple(
                Description(phrase["text"], tuple(boxes[index] for index in phrase["annotations"]))
                for phrase in image.get("phrases", ())
            ),
        )
        for image in data["images"]
    ]
    return EvaluationSet(
        tuple(names.values()),
        tuple(picture for picture in pictures if not picture.prompt),
        tuple(picture for picture in pictures if picture.prompt),
    )


def objects_and_generator(
    sprites: Path, names: Path, *, seed: int, styles: Sequence[str] = STYLES
) -> tuple[tuple[NamedObject, ...], SceneGenerator]:
    """The objects that the pack can draw in these styles, and a generator of pictures of them."""
    pack = load_pack(sprites, styles=styles)
    objects = read_names(names, pack=pack)
    return objects, SceneGenerator(pack, objects, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Write an evaluation set.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sprites", type=Path, default=SMALL_PACK, help="sprite pack, zip or folder")
    parser.add_argument("--styles", nargs="+", default=STYLES, help="art styles of the pack that are drawn")
    parser.add_argument("--names", type=Path, default=NAMES_FILE, help="list of objects")
    parser.add_argument("--single", type=int, default=300, help="pictures of one object")
    parser.add_argument("--scenes", type=int, default=300, help="scenes of several objects")
    parser.add_argument("--hard", action="store_true", help="scenes as hard as the recipes'")
    parser.add_argument("--seed", type=int, required=True, help="a seed that no training run has used")
    chosen = parser.parse_args(arguments)
    objects, generator = objects_and_generator(chosen.sprites, chosen.names, seed=chosen.seed, styles=chosen.styles)
    write_set(chosen.out, generator, single=chosen.single, scenes=chosen.scenes, seed=chosen.seed, hard=chosen.hard)
    print(f"wrote {chosen.single} + {chosen.scenes} pictures of {len(objects)} objects to {chosen.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
