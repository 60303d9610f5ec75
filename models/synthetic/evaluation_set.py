"""Write synthetic evaluation sets: PNG files and one COCO-like `annotations.json`, which `openset evaluate` reads.

python -m models.synthetic.evaluation_set OUT --sprites PACK --seed 7

With `--photographs PACK`, of cut-outs, names and photographs that the recipes of the bundled models validate with.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from models.synthetic.backgrounds import Size
from models.synthetic.label_phrases import plural
from models.synthetic.photo_pack import load_photographs
from models.synthetic.photo_scenes import PhotoSceneConfig, PhotoSceneGenerator
from models.synthetic.scene_prompts import SceneContents, by_place
from models.synthetic.scenes import COLOUR_WORDS, HARD, SceneConfig, SceneGenerator, to_image
from models.synthetic.sprites import NAMES_FILE, SMALL_PACK, STYLES, NamedObject, load_pack, read_names

ANNOTATIONS = "annotations.json"
SIZES = ((480, 640), (640, 480), (360, 640), (427, 640), (512, 512), (320, 320))
SINGLE = SceneConfig(smallest=0.4, largest=1.0)
SCENES = SceneConfig(smallest=0.2, largest=0.6, most_objects=5)
HARD_SINGLE = replace(HARD, smallest=0.4, largest=1.0)
HARD_SCENES = replace(HARD, smallest=0.1, largest=0.6, most_objects=5, painted=0.15)
PHOTO_SINGLE = PhotoSceneConfig(smallest=0.4, largest=1.0, drawn=0.0)
PHOTO_SCENES = PhotoSceneConfig(smallest=0.15, largest=0.7, most_objects=3, drawn=0.0)
MIN_LABELS, MAX_LABELS = 6, 14
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LOCATED = 0.4  # share of caption phrases that say where an object is, if that is clear


Drawn = tuple[Image.Image, SceneContents]
Draw = Callable[[Size], Drawn]  # a picture of this height and width; one of a single object is without boxes


def write_set(
    folder: Path, objects: Sequence[NamedObject], draw_single: Draw, draw_scene: Draw, *, single: int, scenes: int,
    seed: int,
) -> None:  # fmt: skip
    """Write `single` images of one object and `scenes` scenes of `objects` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names = [item.label for item in objects]
    rng = random.Random(seed)
    for number in range(single + scenes):
        size = SIZES[number % len(SIZES)]
        image: dict[str, Any] = {"id": number, "height": size[0], "width": size[1], "file_name": f"{number:04d}.png"}
        picture, contents = draw_single(size) if number < single else draw_scene(size)
        if number >= single:
            image["prompt"] = _prompt(contents.objects, names, rng)
            image |= _caption_fields(contents, objects, len(annotations), rng)
        picture.save(folder / image["file_name"])
        images.append(image)
        for position, index in enumerate(contents.objects):
            row: dict[str, Any] = {"id": len(annotations), "image_id": number, "category_id": index}
            if contents.boxes:
                box = contents.boxes[position]
                # COCO's boxes are x, y, width, height.
                row |= {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "iscrowd": 0}
                row["area"] = row["bbox"][2] * row["bbox"][3]
            annotations.append(row)
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / ANNOTATIONS).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def drawings(generator: SceneGenerator, *, hard: bool = False) -> tuple[Draw, Draw]:
    """Pictures of one object, and scenes; `hard`: as difficult as in the recipes."""
    single_config, scene_config = (HARD_SINGLE, HARD_SCENES) if hard else (SINGLE, SCENES)

    def single(size: Size) -> Drawn:
        batch = generator.single(1, size, single_config)
        return to_image(batch.pixels[0]), SceneContents(batch.objects.tolist(), [], [], size)

    def scene(size: Size) -> Drawn:
        made = generator.scenes(1, size, scene_config)
        boxes, colours = made.boxes_xyxy[0].tolist(), made.colours[0].tolist()
        return to_image(made.pixels[0]), SceneContents(made.objects[0].tolist(), boxes, colours, size)

    return single, scene


def photographs(generator: PhotoSceneGenerator, *, seed: int) -> tuple[Draw, Draw]:
    """Photographs with one pasted cut-out, and with several."""
    rng = random.Random(seed)

    def single(size: Size) -> Drawn:
        picture, index = generator.single(size, PHOTO_SINGLE, rng)
        return picture, SceneContents([index], [], [], size)

    def scene(size: Size) -> Drawn:
        made = generator.scene(size, PHOTO_SCENES, rng)
        return made.image, made.contents

    return single, scene


def _caption_fields(
    contents: SceneContents, objects: Sequence[NamedObject], first: int, rng: random.Random
) -> dict[str, Any]:
    """A caption and its phrases with the ids of their annotations, numbered from `first`; untrue phrases have none."""
    text, spans = scene_caption(contents, objects, rng)
    phrases = [{"text": text[start:end], "annotations": [first + row for row in rows]} for start, end, rows in spans]
    untrue = [swap_colour(str(phrase["text"]), rng) for phrase in phrases]
    return {
        "caption": text,
        "phrases": [*phrases, *({"text": phrase, "annotations": []} for phrase in untrue if phrase is not None)],
    }


def scene_caption(
    contents: SceneContents, objects: Sequence[NamedObject], rng: random.Random
) -> tuple[str, list[tuple[int, int, tuple[int, ...]]]]:
    """A caption that names every object of a scene once, in random order.

    Returns the text and its phrases: characters [start, end), and the rows of the scene's objects that they refer to.
    """
    order = list(dict.fromkeys(contents.objects))
    rng.shuffle(order)
    text, spans = "", []
    for position, index in enumerate(order):
        text += "" if position == 0 else " and " if position == len(order) - 1 else ", "
        rows = tuple(row for row, other in enumerate(contents.objects) if other == index)
        phrase = _caption_phrase(objects[index].label, rows, contents, rng)
        spans.append((len(text), len(text) + len(phrase), rows))
        text += phrase
    return text, spans


def swap_colour(phrase: str, rng: random.Random) -> str | None:
    """The phrase with another colour in place of its first; None for a phrase without one."""
    words = phrase.split()
    index = next((index for index, word in enumerate(words) if word in COLOUR_WORDS), None)
    if index is None:
        return None
    words[index] = rng.choice([colour for colour in COLOUR_WORDS if colour != words[index]])
    return " ".join(words)


def _caption_phrase(label: str, rows: tuple[int, ...], contents: SceneContents, rng: random.Random) -> str:
    colours = {contents.colours[row] for row in rows}
    coloured = f"{COLOUR_WORDS[min(colours)]} {label}" if len(colours) == 1 and min(colours) >= 0 else label
    article = "an" if coloured[0].lower() in "aeiou" else "a"
    phrase = f"{NUMBERS[len(rows)]} {plural(coloured)}" if len(rows) > 1 else f"{article} {coloured}"
    locations = [template for template, found in by_place(rows, contents) if found == rows]
    if locations and rng.random() < LOCATED:
        phrase += rng.choice(locations).removeprefix("the {}")
    return phrase


def _prompt(present: Sequence[int], names: Sequence[str], rng: random.Random) -> list[str]:
    """Labels of a prompt: all present objects and random absent ones, in random order."""
    found = sorted(set(present))
    others = [index for index in range(len(names)) if index not in found]
    count = max(rng.randint(MIN_LABELS, MAX_LABELS), len(found) + 2)
    order = [*found, *rng.sample(others, min(len(others), count - len(found)))]
    rng.shuffle(order)
    return [names[index] for index in order]


def objects_and_generator(
    sprites: Path, names: Path, *, seed: int, styles: Sequence[str] = STYLES
) -> tuple[tuple[NamedObject, ...], SceneGenerator]:
    """The objects that the pack has in these styles, and a generator of images of them."""
    pack = load_pack(sprites, styles=styles)
    objects = read_names(names, pack=pack)
    return objects, SceneGenerator(pack, objects, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Write an evaluation set.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sprites", type=Path, default=SMALL_PACK, help="sprite pack, zip or folder")
    parser.add_argument("--styles", nargs="+", default=STYLES, help="art styles of the pack to use")
    parser.add_argument("--names", type=Path, default=NAMES_FILE, help="list of objects")
    parser.add_argument("--single", type=int, default=300, help="images of one object")
    parser.add_argument("--scenes", type=int, default=300, help="scenes of several objects")
    parser.add_argument("--photographs", type=Path, help="photo pack, whose cut-outs are shown in place of drawings")
    parser.add_argument("--hard", action="store_true", help="scenes as difficult as the training recipes'")
    parser.add_argument("--seed", type=int, required=True, help="a seed that no training run has used")
    args = parser.parse_args(arguments)
    if args.photographs is None:
        objects, generator = objects_and_generator(args.sprites, args.names, seed=args.seed, styles=args.styles)
        draw = drawings(generator, hard=args.hard)
    else:
        pack = load_photographs(args.photographs)
        objects = tuple(NamedObject(label, ()) for label in pack.labels(held_out=True))
        photos = PhotoSceneGenerator(pack, load_pack(args.sprites), objects, held_out=True)
        draw = photographs(photos, seed=args.seed)
    write_set(args.out, objects, *draw, single=args.single, scenes=args.scenes, seed=args.seed)
    print(f"wrote {args.single} + {args.scenes} images of {len(objects)} objects to {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
