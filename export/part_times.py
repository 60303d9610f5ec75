"""Processor time of each part of a bundle, beside that of another bundle with the same parts."""

import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import TypeVar

from PIL import Image

from export.certificate.parity_cases import synthetic_image
from server.bundle import Bundle

LABELS = ("dog", "cat", "red car", "person")
PICTURE = (480, 640)
BATCH = 8  # pictures for an image encoder whose detector is a product of embeddings
MIN_ROUNDS, MIN_SECONDS = 3, 8.0

Times = dict[str, float]
T = TypeVar("T")


def part_times(bundle: Bundle) -> Times:
    """Processor seconds of each part for one picture at the bundle's own size and four labels, `BATCH` for a CLIP."""
    pixels = bundle.preprocess(Image.fromarray(synthetic_image(*PICTURE, seed=1)))
    taken: Times = {}

    def timed(part: str, call: Callable[[], T]) -> T:
        start = time.process_time()
        result = call()
        taken[part] = time.process_time() - start
        return result

    if bundle.manifest.detection is None:
        timed("image_encoder", lambda: bundle.embed_images([pixels] * BATCH))
        timed("text_encoder", lambda: bundle.embed_texts(LABELS))
        return taken
    prompts = [bundle.prompts.from_labels(LABELS)]
    features = timed("text_encoder", lambda: bundle.encode_prompts(prompts))
    context = bundle.encoded([pixels])
    encoded = timed("image_encoder", context.__enter__)
    timed("detector", lambda: bundle.detect(encoded, prompts, features))
    context.__exit__(None, None, None)
    return taken


def speedups(slow: Bundle, fast: Bundle) -> Times:
    """Time of `slow` over that of `fast`, by part: the median of rounds in which both take turns."""
    ratios: dict[str, list[float]] = defaultdict(list)
    part_times(slow), part_times(fast)  # the first run of a session prepares its weights
    start, rounds = time.monotonic(), 0
    while rounds < MIN_ROUNDS or time.monotonic() - start < MIN_SECONDS:
        before, after = part_times(slow), part_times(fast)
        for part, seconds in before.items():
            ratios[part].append(seconds / after[part])
        rounds += 1
    return {part: median(values) for part, values in ratios.items()}
