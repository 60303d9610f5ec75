"""Box formats: corners, corner and size, or centre and size, in pixels or as shares of the image."""

from typing import Literal

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "xyxyn", "xywhn", "cxcywhn"]
Box = tuple[float, float, float, float]
_PIXEL_DIGITS, _RELATIVE_DIGITS = 2, 6


def formatted_box(box_xyxy: Box, box_format: BoxFormat, *, size: tuple[int, int]) -> Box:
    """Convert a box x0, y0, x1, y1 in pixels of an image of `size` (height, width) to `box_format`.

    Rounded to hundredths of a pixel or, in formats that end with "n", to millionths of the image's sides.
    """
    x0, y0, x1, y1 = box_xyxy
    digits = _PIXEL_DIGITS
    if box_format.endswith("n"):
        x0, y0, x1, y1 = x0 / size[1], y0 / size[0], x1 / size[1], y1 / size[0]
        digits = _RELATIVE_DIGITS
    width, height = x1 - x0, y1 - y0
    first, second, third, fourth = {
        "xyxy": (x0, y0, x1, y1),
        "xywh": (x0, y0, width, height),
        "cxcywh": (x0 + width / 2, y0 + height / 2, width, height),
    }[box_format.removesuffix("n")]
    return round(first, digits), round(second, digits), round(third, digits), round(fourth, digits)
