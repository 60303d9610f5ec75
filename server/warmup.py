"""Runs a bundle once before it is served, at the largest shapes it may meet, and measures what that takes."""

from dataclasses import dataclass

from PIL import Image

from server.bundle import Bundle
from server.contract.manifest import Manifest
from server.contract.text import Prompt
from server.resident import with_peak

_WORD = "dog"
# One text of a small tower hides in what the C heap has spare; of several the heap must grow.
_TEXTS = 8


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
        prompt = _largest_prompt(bundle)
        features, text = with_peak(lambda: bundle.encode_prompts([prompt]))
        _, image = with_peak(lambda: bundle.run_detector([pixels], [prompt], features))
    else:
        sentences = [_largest_sentence(bundle)] * _TEXTS
        _, text = with_peak(lambda: bundle.embed_texts(sentences))
        text = None if text is None else -(-text // _TEXTS)
        _, image = with_peak(lambda: bundle.embed_images([pixels]))
    return None if image is None or text is None else Peaks(image, text)


def largest_picture(manifest: Manifest) -> tuple[int, int]:
    """The (width, height) of a picture that becomes the largest input, but for a few pixels of rounding."""
    rules = manifest.preprocessing
    return rules.longer or rules.shorter, rules.shorter


def _largest_prompt(bundle: Bundle) -> Prompt:
    per_label = len(bundle.prompts.from_labels([_WORD])) - 2  # without start and end
    return bundle.prompts.from_labels([_WORD] * max(1, (bundle.manifest.text.max_tokens - 2) // per_label))


def _largest_sentence(bundle: Bundle) -> str:
    per_word = bundle.sentences.encode([_WORD]).shape[1] - 2
    return " ".join([_WORD] * max(1, (bundle.manifest.text.max_tokens - 2) // per_word))
