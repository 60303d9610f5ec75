"""The cases a certificate is measured on: pictures and prompts that no graph was traced with, made from a seed.

They are stored in the bundle, beside PyTorch's answers, so that `openset verify` can run them again without PyTorch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.bundle import Bundle
from server.contract.image import Float32, preprocess
from server.contract.manifest import BundleError, Manifest
from server.contract.text import Prompt, PromptTooLong

Picture = npt.NDArray[np.uint8]
Text = str | tuple[str, ...]
Arrays = Mapping[str, npt.NDArray[Any]]
SMALLEST_SIDE = 64
# Places of an image at which its features are stored: all of them would be most of the bundle.
SAMPLED = 8

_SENTENCES = (
    "a dog",
    "two red bicycles leaning on a wall",
    "a drawing of a sailing boat at night, seen from far away",
    "rain",
    "a cup of tea",
)
_CAPTION = "a dog. a red bicycle."
_LONG_CAPTION = "a person with an umbrella . the traffic light ? a small house behind the trees"
_LABELS = ("cat", "fire hydrant", "cat", "sports car", "Car", "a bowl of fruit", "airplane", "wooden chair", "key")


@dataclass(frozen=True, eq=False)
class Case:
    """One batch. pictures: uint8 [h, w, 3] each; shorter, longer: the sides they are resized to, not the bundle's own.

    texts: for a detector one prompt a picture, a caption or a tuple of labels; else sentences, which every picture is
    compared with.
    """

    name: str
    shorter: int
    longer: int | None
    pictures: tuple[Picture, ...]
    texts: tuple[Text, ...]

    def pixels(self, manifest: Manifest) -> list[Float32]:
        """The pictures as model input, by the preprocessing that serves."""
        rules = manifest.preprocessing.model_copy(update={"shorter": self.shorter, "longer": self.longer})
        return [preprocess(Image.fromarray(picture), rules) for picture in self.pictures]

    def prompts(self, bundle: Bundle) -> list[Prompt]:
        """The prompts of a detector."""
        return [prompt_of(bundle, text) for text in self.texts]


def prompt_of(bundle: Bundle, text: Text) -> Prompt:
    """The prompt of a caption or of labels."""
    return bundle.prompts.from_caption(text) if isinstance(text, str) else bundle.prompts.from_labels(text)


def make_cases(bundle: Bundle) -> tuple[Case, ...]:
    """The cases of a bundle: one at its serving size, others smaller; batches of one to three, texts of any length."""
    rules = bundle.manifest.preprocessing
    if bundle.manifest.detection is None:
        return (
            _similarity_case(bundle, "one", sizes=[(101, 135)], texts=_SENTENCES[1:2]),
            _similarity_case(bundle, "three", sizes=[(135, 101), (97, 211), (64, 64)], texts=_SENTENCES),
        )
    longer = rules.longer or rules.shorter
    small = max(SMALLEST_SIDE, rules.shorter * 3 // 10), max(SMALLEST_SIDE, longer * 3 // 10)
    tiny = max(SMALLEST_SIDE, rules.shorter // 5), max(SMALLEST_SIDE, longer // 5)
    full = rules.shorter, longer
    return (
        _detection_case(bundle, "serving size", full, size=(90, 120), texts=[_CAPTION]),
        _detection_case(bundle, "mixed prompts", small, size=(77, 102), texts=[_LONG_CAPTION, "key", _CAPTION]),
        _detection_case(bundle, "upright", tiny, size=(150, 83), texts=[_LABELS, _LABELS[:3]]),
    )


def _similarity_case(bundle: Bundle, name: str, *, sizes: Sequence[tuple[int, int]], texts: Sequence[str]) -> Case:
    rules = bundle.manifest.preprocessing
    pictures = tuple(picture(*size, seed=index) for index, size in enumerate(sizes))
    return Case(name, rules.shorter, rules.longer, pictures, tuple(t for t in texts if _fits(bundle, t)) or ("a",))


def _detection_case(
    bundle: Bundle, name: str, sides: tuple[int, int], *, size: tuple[int, int], texts: Sequence[Text]
) -> Case:
    fitting = tuple(text if _fits(bundle, text) else "a" for text in texts)
    pictures = tuple(picture(*size, seed=10 + index) for index in range(len(texts)))
    return Case(name, *sides, pictures, fitting)


def _fits(bundle: Bundle, text: Text) -> bool:
    try:
        if bundle.manifest.detection is not None:
            prompt_of(bundle, text)
        elif isinstance(text, str):
            bundle.sentences.encode([text])
    except PromptTooLong:
        return False
    return True


def picture(height: int, width: int, *, seed: int) -> Picture:
    """A picture [h, w, 3] of soft clouds of colour with three hard-edged boxes."""
    rng = np.random.default_rng(seed)
    clouds = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    pixels = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC)).copy()
    for _ in range(3):
        top, left = int(rng.integers(0, height * 2 // 3)), int(rng.integers(0, width * 2 // 3))
        pixels[top : top + height // 4, left : left + width // 5] = rng.integers(0, 256, 3, np.uint8)
    return pixels


def sampled(levels: Sequence[Float32]) -> Float32:
    """An image's levels [C, h, w] at few places, evenly spread over all of them: [P, C]."""
    places = np.concatenate([level.reshape(len(level), -1) for level in levels], 1)
    return np.ascontiguousarray(places[:, np.linspace(0, places.shape[1] - 1, SAMPLED).astype(int)].T)


def pack_cases(cases: Sequence[Case]) -> dict[str, npt.NDArray[Any]]:
    """The cases as arrays of an npz file: `cases`, JSON in bytes, and `CASE/picture/INDEX`."""
    rows = [{"name": c.name, "shorter": c.shorter, "longer": c.longer, "texts": c.texts} for c in cases]
    arrays: dict[str, npt.NDArray[Any]] = {"cases": np.frombuffer(json.dumps(rows).encode(), np.uint8)}
    for case in cases:
        arrays |= {f"{case.name}/picture/{index}": pixels for index, pixels in enumerate(case.pictures)}
    return arrays


def unpack_cases(arrays: Arrays) -> tuple[Case, ...]:
    """The inverse of `pack_cases`; BundleError where the arrays are not what it wrote."""
    try:
        rows = json.loads(bytes(arrays["cases"]))
        return tuple(
            Case(
                name=row["name"],
                shorter=row["shorter"],
                longer=row["longer"],
                pictures=tuple(arrays[name] for name in sorted(arrays) if name.startswith(f"{row['name']}/picture/")),
                texts=tuple(text if isinstance(text, str) else tuple(text) for text in row["texts"]),
            )
            for row in rows
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the reference outputs hold no readable cases: {error!r}") from error
