"""How many images go in one request: as many as the server takes, all of one kind."""

from dataclasses import dataclass, field

from server.client.pictures import Url
from server.client.steps import Fields, Send

_PART_BYTES = 512  # the lines around one part of a form; generous


@dataclass(frozen=True)
class Limits:
    """What the server takes in one request; a server that does not tell takes anything."""

    max_images: float = float("inf")
    max_body_bytes: float = float("inf")


@dataclass
class Part:
    """The images of one request; a new one takes its first image whatever its size, so that the server may judge."""

    path: str
    fields: Fields
    limits: Limits
    images: list[bytes | Url] = field(default_factory=list)
    _bytes: int = 0

    def __post_init__(self) -> None:
        texts = [text for value in self.fields.values() for text in ([value] if isinstance(value, str) else value)]
        self._bytes = sum(len(text.encode()) + _PART_BYTES for text in texts) + _PART_BYTES

    def takes(self, image: bytes | Url) -> bool:
        """Whether this one may be added: files and URLs do not go together."""
        if not self.images:
            return True
        return (
            isinstance(image, type(self.images[0]))
            and len(self.images) < self.limits.max_images
            and self._bytes + _size(image) <= self.limits.max_body_bytes
        )

    def add(self, image: bytes | Url) -> None:
        """Add one that it takes."""
        self.images.append(image)
        self._bytes += _size(image)

    def request(self) -> Send:
        """A form with the files, or a JSON body with the URLs."""
        files = [image for image in self.images if isinstance(image, bytes)]
        if files:
            return Send("POST", self.path, form=self.fields, files=files)
        urls = [image.address for image in self.images if isinstance(image, Url)]
        return Send("POST", self.path, json={"image_urls": urls} | dict(self.fields))


def _size(image: bytes | Url) -> int:
    return _PART_BYTES + len(image if isinstance(image, bytes) else image.address.encode())
