"""Warm-up of a bundle before it is served: one run at the largest shapes, which measures its memory, or all shapes.

On a CPU the first run of a new shape takes as long as the next. On a GPU it may take many times as long, since kernels
are chosen or compiled for the shape (onnxruntime issue 12120).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from PIL import Image

from server.bundle import TEXT_BATCH, Bundle
from server.contract.manifest import Manifest
from server.contract.text import Prompt
from server.memory.pool import PoolExhausted
from server.memory.process_resources import with_peak

SHAPES_WITHIN_S = 120.0
_WORD = "dog"
# The C heap may have room for one text of a small tower; for several it must grow, and its growth is measured.
_TEXTS = 8
# Aspect ratios (longer over shorter side) of the images that stand for a bundle's pixel buckets: those of cameras and
# screens. All ratios would be too many: one canvas for each size of either side.
_RATIOS = (1, 4 / 3, 3 / 2, 16 / 9)


@dataclass(frozen=True)
class Peaks:
    """Peak growth of the process while it ran, in bytes for each image, and for each text or prompt."""

    image: int
    text: int


def warm_up(bundle: Bundle) -> Peaks | None:
    """Run every part of `bundle` once, on one image and a prompt or texts; None where memory cannot be measured."""
    pixels = bundle.preprocess(Image.new("RGB", largest_picture(bundle.manifest)))
    if "detect" in bundle.tasks:
        prompt = _prompt(bundle, bundle.manifest.text.max_tokens)
        features, text = with_peak(lambda: bundle.encode_prompts([prompt]))
        _, image = with_peak(lambda: bundle.run_detector([pixels], [prompt], features))
    else:
        sentences = [_largest_sentence(bundle)] * _TEXTS
        _, text = with_peak(lambda: bundle.embed_texts(sentences))
        text = None if text is None else -(-text // _TEXTS)
        _, image = with_peak(lambda: bundle.embed_images([pixels]))
    return None if image is None or text is None else Peaks(image, text)


def warm_up_shapes(bundle: Bundle, *, batch: int) -> int:
    """Run the shape buckets of `bundle`, each alone and in a `batch`; returns how many time or memory did not allow.

    Shapes are those of images in common aspect ratios, portrait and landscape, times the declared token buckets.
    """
    give_up, left = time.monotonic() + SHAPES_WITHIN_S, 0
    for run in _runs(bundle, batch):
        if time.monotonic() >= give_up:
            left += 1
            continue
        try:
            run()
        except PoolExhausted:  # when served, it is run in parts
            left += 1
    return left


def _runs(bundle: Bundle, batch: int) -> Iterator[Callable[[], object]]:
    images = {bundle.canvas(pixels): pixels for pixels in map(bundle.preprocess, _images(bundle.manifest))}
    batches = sorted({1, batch})
    if "detect" not in bundle.tasks:
        for count in (1, TEXT_BATCH):
            yield partial(bundle.embed_texts, [_largest_sentence(bundle)] * count)
        for count, pixels in product(batches, images.values()):
            yield partial(bundle.embed_images, [pixels] * count)
        return
    most = bundle.manifest.text.max_tokens
    prompts = [
        _prompt(bundle, tokens) for tokens in sorted({min(size, most) for size in bundle.manifest.buckets.tokens})
    ]
    features = [(prompt, bundle.encode_prompts([prompt])) for prompt in prompts or [_prompt(bundle, most)]]
    for count, pixels, (prompt, encoded) in product(batches, images.values(), features):
        yield partial(bundle.run_detector, [pixels] * count, [prompt] * count, encoded * count)


def _images(manifest: Manifest) -> Iterator[Image.Image]:
    """Images that scale to the largest input of their aspect ratio."""
    shorter, longest = manifest.preprocessing.shorter, max(largest_picture(manifest))
    for ratio in (*_RATIOS, longest / shorter):
        longer = min(longest, round(shorter * ratio))
        for size in {(longer, shorter), (shorter, longer)}:
            yield Image.new("RGB", size)


def largest_batches(bundle: Bundle) -> Callable[[int], object]:
    """A function that runs so many images together, each at its largest and with the longest prompt."""
    pixels = bundle.preprocess(Image.new("RGB", largest_picture(bundle.manifest)))
    if "detect" not in bundle.tasks:
        return lambda count: bundle.embed_images([pixels] * count)
    prompt = _prompt(bundle, bundle.manifest.text.max_tokens)
    (features,) = bundle.encode_prompts([prompt])
    return lambda count: bundle.run_detector([pixels] * count, [prompt] * count, [features] * count)


def largest_picture(manifest: Manifest) -> tuple[int, int]:
    """The (width, height) of an image that becomes the largest input, up to a few pixels of rounding."""
    rules = manifest.preprocessing
    return rules.longer or rules.shorter, rules.shorter


def _prompt(bundle: Bundle, tokens: int) -> Prompt:
    """The longest prompt of at most so many tokens."""
    per_label = len(bundle.prompts.from_labels([_WORD])) - 2  # without start and end
    return bundle.prompts.from_labels([_WORD] * max(1, (tokens - 2) // per_label))


def _largest_sentence(bundle: Bundle) -> str:
    per_word = bundle.sentences.encode([_WORD]).shape[1] - 2
    return " ".join([_WORD] * max(1, (bundle.manifest.text.max_tokens - 2) // per_word))
