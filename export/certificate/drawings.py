"""Cases for int8: drawings of everyday objects on plain grounds, which a trained model recognises.

On the synthetic images of `export.certificate.parity_cases` it finds next to nothing, and what it finds hangs on less
than int8 rounds. The drawings are those of the small sprite pack that ships; all is seeded, so nothing of it is stored.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from export.certificate.parity_cases import BundleTokenizer, ParityCase
from server.contract.manifest import Preprocessing
from server.contract.text import SentenceTokenizer

PACK = Path(__file__).parents[2] / "models" / "synthetic" / "sprites"
STYLES = ("noto", "twemoji", "fluent")
# Height and width of the pictures, one batch of BATCH each; a run at the full size of a large model is expensive.
SIZES = ((240, 320), (320, 240), (288, 288), (216, 360), (240, 320), (320, 240), (288, 288), (360, 216))
BATCH = 3
LARGEST_SHORTER = 320
OBJECTS, ABSENT = 3, 3


def drawn_cases(rules: Preprocessing, tokenizer: BundleTokenizer) -> tuple[ParityCase, ...]:
    """Batches of drawings; a detector is asked for what is in each and for as many other things, at up to 320 px.

    One more picture has the serving size of the bundle, where that is larger.
    """
    rng = np.random.default_rng(18)
    if isinstance(tokenizer, SentenceTokenizer):
        texts = tuple(f"a drawing of a {name}" for name in _names().values())
        return tuple(
            ParityCase(f"drawings {index}", rules.shorter, rules.longer, _pictures(size, rng, objects=1)[0], texts)
            for index, size in enumerate(SIZES)
        )
    small = rules.reduced(min(rules.shorter, LARGEST_SHORTER))
    cases = []
    for index, size in enumerate(SIZES):
        images, prompts = _pictures(size, rng, objects=OBJECTS)
        cases.append(ParityCase(f"drawings {index}", small.shorter, small.longer, images, prompts))
    if small.shorter < rules.shorter:
        images, prompts = _pictures(SIZES[0], rng, objects=OBJECTS)
        cases.append(ParityCase("drawing at serving size", rules.shorter, rules.longer, images[:1], prompts[:1]))
    return tuple(cases)


def _pictures(
    size: tuple[int, int], rng: np.random.Generator, *, objects: int
) -> tuple[tuple[npt.NDArray[np.uint8], ...], tuple[tuple[str, ...], ...]]:
    """`BATCH` pictures, and for each the names of what it shows and of what it does not."""
    images, prompts = [], []
    for _ in range(BATCH):
        slugs = [str(slug) for slug in rng.choice(list(_names()), OBJECTS + ABSENT, replace=False)]
        images.append(_picture(size, slugs[:objects], rng))
        prompts.append(tuple(dict.fromkeys(_names()[slug] for slug in slugs)))
    return tuple(images), tuple(prompts)


def _picture(size: tuple[int, int], slugs: list[str], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Drawings [h, w, 3] side by side along the longer side, each of a third to all of its place."""
    height, width = size
    red, green, blue = (int(value) for value in rng.integers(120, 256, 3))
    picture = Image.new("RGB", (width, height), (red, green, blue))
    across = width >= height
    place = max(size) // len(slugs)
    for index, slug in enumerate(slugs):
        side = int(min(place, min(size)) * rng.uniform(0.5, 1.0))
        along, aside = (
            index * place + int(rng.integers(0, place - side + 1)),
            int(rng.integers(0, min(size) - side + 1)),
        )
        with Image.open(PACK / STYLES[int(rng.integers(len(STYLES)))] / f"{slug}.png") as sprite:
            drawn = sprite.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
        picture.paste(drawn, (along, aside) if across else (aside, along), drawn)
    return np.asarray(picture)


@cache
def _names() -> dict[str, str]:
    """Names of the drawings by their files' names; drawings of a face are named like the animal."""
    entries = json.loads((PACK / "sprites.json").read_text(encoding="utf-8"))
    return {entry["slug"]: entry["name"].removesuffix(" face") for entry in entries}
