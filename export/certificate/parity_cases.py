"""Parity cases of a certificate: seeded images and prompts that no graph was traced with.

They are stored in the bundle beside PyTorch's outputs, so that `openset verify` runs them again without PyTorch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.contract.image import Float32, preprocess
from server.contract.manifest import BundleError, Preprocessing
from server.contract.text import Prompt, PromptTokenizer, PromptTooLong, SentenceTokenizer

TextInput = str | tuple[str, ...]
NamedArrays = Mapping[str, npt.NDArray[Any]]
BundleTokenizer = PromptTokenizer | SentenceTokenizer
SMALLEST_SIDE = 64
# Positions of an image at which its features are stored: all of them would be most of the bundle.
SAMPLED_POSITIONS = 8

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
class ParityCase:
    """One batch. images: uint8 [h, w, 3] each; shorter, longer: sides to resize to, in place of the bundle's own.

    texts: for a detector one prompt for each image, a caption or a tuple of labels; else sentences that every image is
    compared with.
    """

    name: str
    shorter: int
    longer: int | None
    images: tuple[npt.NDArray[np.uint8], ...]
    texts: tuple[TextInput, ...]

    def pixels(self, preprocessing: Preprocessing) -> list[Float32]:
        """The images as model input [3, h, w], by the preprocessing that serves."""
        rules = preprocessing.model_copy(update={"shorter": self.shorter, "longer": self.longer})
        return [preprocess(Image.fromarray(image), rules) for image in self.images]

    def prompts(self, tokenizer: PromptTokenizer) -> list[Prompt]:
        """The prompts of a detector, one for each image."""
        return [_prompt(tokenizer, text) for text in self.texts]


def make_cases(rules: Preprocessing, tokenizer: BundleTokenizer) -> tuple[ParityCase, ...]:
    """Cases of a bundle: batches of one to three, texts of any length; a detector's first has its serving size."""
    if isinstance(tokenizer, SentenceTokenizer):
        return (
            _similarity_case(rules, tokenizer, "one", sizes=[(101, 135)], texts=_SENTENCES[1:2]),
            _similarity_case(rules, tokenizer, "three", sizes=[(135, 101), (97, 211), (64, 64)], texts=_SENTENCES),
        )
    longer = rules.longer or rules.shorter
    small = max(SMALLEST_SIDE, rules.shorter * 3 // 10), max(SMALLEST_SIDE, longer * 3 // 10)
    tiny = max(SMALLEST_SIDE, rules.shorter // 5), max(SMALLEST_SIDE, longer // 5)
    full = rules.shorter, longer
    return (
        _detection_case(tokenizer, "serving size", full, size=(90, 120), texts=[_CAPTION]),
        _detection_case(tokenizer, "mixed prompts", small, size=(77, 102), texts=[_LONG_CAPTION, "key", _CAPTION]),
        _detection_case(tokenizer, "upright", tiny, size=(150, 83), texts=[_LABELS, _LABELS[:3]]),
    )


def _similarity_case(
    rules: Preprocessing,
    tokenizer: SentenceTokenizer,
    name: str,
    *,
    sizes: Sequence[tuple[int, int]],
    texts: Sequence[str],
) -> ParityCase:
    images = tuple(synthetic_image(*size, seed=index) for index, size in enumerate(sizes))
    fitting = tuple(text for text in texts if _fits(tokenizer, text)) or ("a",)
    return ParityCase(name, rules.shorter, rules.longer, images, fitting)


def _detection_case(
    tokenizer: PromptTokenizer, name: str, sides: tuple[int, int], *, size: tuple[int, int], texts: Sequence[TextInput]
) -> ParityCase:
    fitting = tuple(text if _fits(tokenizer, text) else "a" for text in texts)
    images = tuple(synthetic_image(*size, seed=10 + index) for index in range(len(texts)))
    return ParityCase(name, *sides, images, fitting)


def _prompt(tokenizer: PromptTokenizer, text: TextInput) -> Prompt:
    return tokenizer.from_caption(text) if isinstance(text, str) else tokenizer.from_labels(text)


def _fits(tokenizer: BundleTokenizer, text: TextInput) -> bool:
    try:
        if isinstance(tokenizer, PromptTokenizer):
            _prompt(tokenizer, text)
        else:
            tokenizer.encode([str(text)])
    except PromptTooLong:
        return False
    return True


def synthetic_image(height: int, width: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """An image [h, w, 3] of soft clouds of colour with three hard-edged boxes."""
    rng = np.random.default_rng(seed)
    clouds = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    pixels = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC)).copy()
    for _ in range(3):
        top, left = int(rng.integers(0, height * 2 // 3)), int(rng.integers(0, width * 2 // 3))
        pixels[top : top + height // 4, left : left + width // 5] = rng.integers(0, 256, 3, np.uint8)
    return pixels


def sampled(levels: Sequence[Float32]) -> Float32:
    """An image's levels [C, h, w] at `SAMPLED_POSITIONS` positions evenly spread over all of them: [P, C].

    Levels of fewer channels than the widest are filled with zeros.
    """
    flat, width = [level.reshape(len(level), -1) for level in levels], max(map(len, levels))
    positions = np.concatenate([np.pad(level, ((0, width - len(level)), (0, 0))) for level in flat], 1)
    return np.ascontiguousarray(positions[:, np.linspace(0, positions.shape[1] - 1, SAMPLED_POSITIONS).astype(int)].T)


def pack_cases(cases: Sequence[ParityCase]) -> dict[str, npt.NDArray[Any]]:
    """The cases as arrays of an npz file: `cases`, JSON in bytes, and `CASE/picture/INDEX`."""
    rows = [{"name": c.name, "shorter": c.shorter, "longer": c.longer, "texts": c.texts} for c in cases]
    arrays: dict[str, npt.NDArray[Any]] = {"cases": np.frombuffer(json.dumps(rows).encode(), np.uint8)}
    for case in cases:
        arrays |= {f"{case.name}/picture/{index}": image for index, image in enumerate(case.images)}
    return arrays


def unpack_cases(arrays: NamedArrays) -> tuple[ParityCase, ...]:
    """The inverse of `pack_cases`; BundleError where the arrays are not its own."""
    try:
        rows = json.loads(bytes(arrays["cases"]))
        return tuple(
            ParityCase(
                name=row["name"],
                shorter=row["shorter"],
                longer=row["longer"],
                images=tuple(arrays[name] for name in sorted(arrays) if name.startswith(f"{row['name']}/picture/")),
                texts=tuple(text if isinstance(text, str) else tuple(text) for text in row["texts"]),
            )
            for row in rows
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the reference outputs hold no readable cases: {error!r}") from error
