"""Cases for int8: drawings and photographs of everyday objects, which a trained model recognises.

On the synthetic images of `export.certificate.parity_cases` it finds next to nothing, and what it finds hangs on less
than int8 rounds. The drawings are those of the small sprite pack that ships, the photographs the server's examples; all
is seeded, so nothing of it is stored.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from export.certificate.parity_cases import BundleTokenizer, ParityCase, synthetic_image
from server.contract.manifest import Preprocessing
from server.contract.text import SentenceTokenizer

PACK = Path(__file__).parents[2] / "models" / "synthetic" / "sprites"
STYLES = ("noto", "twemoji", "fluent")
EXAMPLES = Path(__file__).parents[2] / "server" / "examples"
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "cow", "dog", "rocket")
# Height and width of the pictures, one batch of BATCH each; a run at the full size of a large model is expensive.
SIZES = ((240, 320), (320, 240), (288, 288), (216, 360), (240, 320), (320, 240), (288, 288), (360, 216)) * 2
BATCH = 3
LARGEST_SHORTER = 320
MOST_OBJECTS, LABELS = 5, 8
# A scene has places for its objects in this many columns and rows, or rows and columns where it is upright.
PLACES = (3, 2)

Picture = npt.NDArray[np.uint8]


def drawn_cases(rules: Preprocessing, tokenizer: BundleTokenizer) -> tuple[ParityCase, ...]:
    """Batches of drawings, and each photograph; a detector is asked for what they show and for other things.

    A detector sees them at up to 320 px, and one drawing more at the serving size of the bundle where that is larger.
    """
    rng = np.random.default_rng(18)
    if isinstance(tokenizer, SentenceTokenizer):
        texts = tuple(f"a drawing of a {name}" for name in _names().values())
        cases = [
            ParityCase(f"drawings {index}", rules.shorter, rules.longer, _single_objects(size, rng), texts)
            for index, size in enumerate(SIZES)
        ]
        return (*cases, *_photographs(rules, tuple(f"a photo of a {name}" for name in PHOTOGRAPHS)))
    small = rules.reduced(min(rules.shorter, LARGEST_SHORTER))
    cases = []
    for index, size in enumerate(SIZES):
        images, prompts = _scenes(size, rng)
        cases.append(ParityCase(f"drawings {index}", small.shorter, small.longer, images, prompts))
    cases += _photographs(small, (PHOTOGRAPHS,))
    if small.shorter < rules.shorter:
        images, prompts = _scenes(SIZES[0], rng)
        cases.append(ParityCase("drawing at serving size", rules.shorter, rules.longer, images[:1], prompts[:1]))
    return tuple(cases)


def _single_objects(size: tuple[int, int], rng: np.random.Generator) -> tuple[Picture, ...]:
    return tuple(_picture(size, [str(rng.choice(list(_names())))], rng, places=(1, 1)) for _ in range(BATCH))


def _scenes(size: tuple[int, int], rng: np.random.Generator) -> tuple[tuple[Picture, ...], tuple[tuple[str, ...], ...]]:
    """`BATCH` scenes of one to five objects, and for each the names of these and of others, `LABELS` or fewer."""
    images, prompts = [], []
    for _ in range(BATCH):
        slugs = [str(slug) for slug in rng.choice(list(_names()), LABELS, replace=False)]
        images.append(_picture(size, slugs[: int(rng.integers(1, MOST_OBJECTS + 1))], rng, places=PLACES))
        names = list(dict.fromkeys(_names()[slug] for slug in slugs))
        prompts.append(tuple(names[index] for index in rng.permutation(len(names))))
    return tuple(images), tuple(prompts)


def _picture(size: tuple[int, int], slugs: list[str], rng: np.random.Generator, *, places: tuple[int, int]) -> Picture:
    """Drawings [h, w, 3] on a plain ground or on clouds, each of two fifths to all of a place of its own."""
    height, width = size
    columns, rows = places if width >= height else places[::-1]
    place_height, place_width = height // rows, width // columns
    picture = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(120, 256, 3)))
    if rng.random() < 0.5:
        picture = Image.fromarray(synthetic_image(height, width, seed=int(rng.integers(2**31))))
    for slug, place in zip(slugs, rng.permutation(columns * rows), strict=False):
        row, column = divmod(int(place), columns)
        side = int(min(place_height, place_width) * rng.uniform(0.4, 1.0))
        left = column * place_width + int(rng.integers(0, place_width - side + 1))
        top = row * place_height + int(rng.integers(0, place_height - side + 1))
        with Image.open(PACK / STYLES[int(rng.integers(len(STYLES)))] / f"{slug}.png") as sprite:
            drawn = sprite.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
        picture.paste(drawn, (left, top), drawn)
    return np.asarray(picture)


def _photographs(rules: Preprocessing, texts: tuple[str | tuple[str, ...], ...]) -> list[ParityCase]:
    cases = []
    for name in PHOTOGRAPHS:
        with Image.open(EXAMPLES / f"{name}.jpg") as photograph:
            image = np.asarray(photograph.convert("RGB"))
        cases.append(ParityCase(f"photograph of {name}", rules.shorter, rules.longer, (image,), texts))
    return cases


@cache
def _names() -> dict[str, str]:
    """Names of the drawings by their files' names; drawings of a face are named like the animal."""
    entries = json.loads((PACK / "sprites.json").read_text(encoding="utf-8"))
    return {entry["slug"]: entry["name"].removesuffix(" face") for entry in entries}
