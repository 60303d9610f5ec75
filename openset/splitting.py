"""Splitting of images over requests: as many in each as the server takes, files and URLs apart."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from openset.images import Url

Fields = Mapping[str, str | list[str]]
_OVERHEAD_BYTES = 512  # of the lines around one part of a form; generous


@dataclass(frozen=True)
class Limits:
    """Bounds of one request; those that a server does not tell are infinite."""

    max_images: float = float("inf")
    max_body_bytes: float = float("inf")


def split(images: Iterable[bytes | Url], fields: Fields, limits: Limits) -> Iterator[list[bytes | Url]]:
    """Batches of images, all files or all URLs, each within the limits together with the `fields` of its request.

    An image that is too large by itself goes alone, so that the server may refuse it. Images are taken as they are
    needed: no more than one batch of them is held.
    """
    texts = [text for value in fields.values() for text in ([value] if isinstance(value, str) else value)]
    fields_bytes = sum(len(text.encode()) + _OVERHEAD_BYTES for text in texts) + _OVERHEAD_BYTES
    batch: list[bytes | Url] = []
    batch_bytes = fields_bytes
    for image in images:
        size = _OVERHEAD_BYTES + len(image if isinstance(image, bytes) else image.address.encode())
        fits = len(batch) < limits.max_images and batch_bytes + size <= limits.max_body_bytes
        if batch and not (fits and isinstance(image, type(batch[0]))):
            yield batch
            batch, batch_bytes = [], fields_bytes
        batch.append(image)
        batch_bytes += size
    yield batch
