"""Runs a bundle before it is served: once at the largest shapes it may meet, to measure what that takes, or at all.

Seen on a processor: the first run of a further shape costs what the next ones do. On a GPU it may take many times as
long: kernels are chosen or compiled for it (onnxruntime issue 12120).
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

_WORD = "dog"
# One text of a small tower hides in what the C heap has spare; of several the heap must grow.
_TEXTS = 8
# Longer over shorter side of the pictures that stand for a bundle's pixel buckets: what cameras and screens give. Of
# others there are too many: a canvas for each size of either side.
_RATIOS = (1, 4 / 3, 3 / 2, 16 / 9)


@dataclass(frozen=True)
class Peaks:
    """Bytes by which the process had grown at most while it ran, per image, and per text or prompt."""

    image: int
    text: int


def warm_up(bundle: Bundle) -> Peaks | None:
    """Run every part of `bundle` once, on one image and a prompt or a few texts; None where the system does not tell
    the memory."""
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


def warm_up_shapes(bundle: Bundle, *, batch: int, within_s: float) -> int:
    """Run the shape buckets of `bundle`, each alone first and then in a `batch`; how many no time or room was left for.

    Shapes are those of pictures in usual formats, upright and lying, times the declared numbers of tokens.
    """
    give_up, left = time.monotonic() + within_s, 0
    for run in _runs(bundle, batch):
        if time.monotonic() >= give_up:
            left += 1
            continue
        try:
            run()
        except PoolExhausted:  # it would be run in parts
            left += 1
    return left


def _runs(bundle: Bundle, batch: int) -> Iterator[Callable[[], object]]:
    images = {bundle.canvas(pixels): pixels for pixels in map(bundle.preprocess, _pictures(bundle.manifest))}
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


def _pictures(manifest: Manifest) -> Iterator[Image.Image]:
    """Pictures that are scaled to the largest inputs of their formats."""
    shorter, longest = manifest.preprocessing.shorter, max(largest_picture(manifest))
    for ratio in (*_RATIOS, longest / shorter):
        longer = min(longest, round(shorter * ratio))
        for size in {(longer, shorter), (shorter, longer)}:
            yield Image.new("RGB", size)


def largest_batches(bundle: Bundle) -> Callable[[int], object]:
    """What runs so many images together, each at its largest and with the longest prompt."""
    pixels = bundle.preprocess(Image.new("RGB", largest_picture(bundle.manifest)))
    if "detect" not in bundle.tasks:
        return lambda count: bundle.embed_images([pixels] * count)
    prompt = _prompt(bundle, bundle.manifest.text.max_tokens)
    (features,) = bundle.encode_prompts([prompt])
    return lambda count: bundle.run_detector([pixels] * count, [prompt] * count, [features] * count)


def largest_picture(manifest: Manifest) -> tuple[int, int]:
    """The (width, height) of a picture that becomes the largest input, but for a few pixels of rounding."""
    rules = manifest.preprocessing
    return rules.longer or rules.shorter, rules.shorter


def _prompt(bundle: Bundle, tokens: int) -> Prompt:
    """The largest prompt of at most so many tokens."""
    per_label = len(bundle.prompts.from_labels([_WORD])) - 2  # without start and end
    return bundle.prompts.from_labels([_WORD] * max(1, (tokens - 2) // per_label))


def _largest_sentence(bundle: Bundle) -> str:
    per_word = bundle.sentences.encode([_WORD]).shape[1] - 2
    return " ".join([_WORD] * max(1, (bundle.manifest.text.max_tokens - 2) // per_word))
