"""A data set's picture as the bytes that a model is asked about."""

import io

from PIL import Image

from models.data.images import BrokenPicture, Picture, PictureBytes, PictureFile

ORIENTATION = 0x0112


def sent(picture: Picture, size: tuple[int, int] | None) -> tuple[bytes, tuple[int, int]]:
    """What is sent of a picture, and its (height, width); BrokenPicture where it is not the one annotated.

    The file as it is; but where it is annotated as stored and EXIF says to turn it, which a server does, its pixels.
    """
    image = picture.open(size)
    data = _stored(picture)
    with Image.open(io.BytesIO(data)) as file:
        turned = file.getexif().get(ORIENTATION, 1) != 1
    if turned:
        stream = io.BytesIO()
        image.getexif().clear()
        image.save(stream, "PNG", compress_level=1, exif=b"")
        data = stream.getvalue()
    return data, (image.height, image.width)


def _stored(picture: Picture) -> bytes:
    if isinstance(picture, PictureBytes):
        return picture.data
    assert isinstance(picture, PictureFile), "pictures are files or members of archives"
    try:
        return picture.path.read_bytes()
    except OSError as error:
        raise BrokenPicture(f"{picture.path}: the picture cannot be read: {error.strerror or error}") from error
