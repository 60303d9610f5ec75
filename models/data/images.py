"""Pictures of a data set, read when they are needed, and the errors that name a faulty one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from server.contract import image_file
from server.contract.regular_files import read_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the record (line, image id or tar member)."""


class BrokenPicture(DataError):
    """A picture that cannot be read, or is not the one that was annotated."""


class Picture(Protocol):
    """A picture that has not been read yet."""

    @property
    def where(self) -> str:
        """The file, or the archive and its member."""

    def open(self, size: tuple[int, int] | None = None) -> Image.Image:
        """Read the picture in RGB; BrokenPicture unless it has the (height, width) `size`, if that is given."""


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of its own."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        """Read the bytes of the file; BrokenPicture where it cannot be read, or is a pipe or device."""
        try:
            return read_regular(self.path)
        except OSError as error:
            raise BrokenPicture(f"{self.path}: the picture cannot be read: {error.strerror or error}") from error

    def open(self, size: tuple[int, int] | None = None) -> Image.Image:
        return decoded(self.read(), self.where, size)


@dataclass(frozen=True)
class PictureBytes:
    """An encoded picture, already read from an archive."""

    data: bytes
    where: str

    def open(self, size: tuple[int, int] | None = None) -> Image.Image:
        return decoded(self.data, self.where, size)


@dataclass(frozen=True)
class DrawnPicture:
    """A picture that was generated, in RGB."""

    image: Image.Image
    where: str

    def open(self, size: tuple[int, int] | None = None) -> Image.Image:
        assert size is None or size == (self.image.height, self.image.width)
        return self.image


def decoded(data: bytes, where: str, size: tuple[int, int] | None) -> Image.Image:
    """Decode a picture to RGB as it is served, upright by its EXIF orientation.

    If `size` is given, the orientation that has this size is taken: some tools annotate pictures as stored, others as
    shown.
    """
    try:
        image = image_file.decode(data, name="it", size=size)
    except image_file.ImageFileError as error:
        raise BrokenPicture(f"{where}: the picture cannot be read: {error}") from error
    if size is not None and (image.height, image.width) != size:
        raise BrokenPicture(
            f"{where}: the picture is {image.height} x {image.width} (height x width), annotated was one of"
            f" {size[0]} x {size[1]}"
        )
    return image if image.mode == "RGB" else image.convert("RGB")
