"""Drawing of detections: a colour for each label, and tags that stay readable and inside the image at any size."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Rect = tuple[float, float, float, float]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Fonts of the system, the one with most scripts first. Pillow's own, the fallback, has Latin letters only.
_FONTS = ("NotoSansCJK-Bold.ttc", "DejaVuSans-Bold.ttf")
_MAX_LABEL = 32
MAX_TAGS = 2000  # more would hide the image, and each another
# Neighbours are far apart in hue; the test page has the same list.
_PALETTE = (
    *("#ff4d4f", "#2f80ff", "#1fc16b", "#ffb020", "#a855f7", "#14c4d8", "#ff5fa8"),
    *("#a3d420", "#ff7a1a", "#5b5bf0", "#0f9d8f", "#d6249f", "#9a6a3a", "#7f93a8"),
)
_ELLIPSIS = "…"


class Mark(NamedTuple):
    """A detection to draw: its box x0, y0, x1, y1 in pixels, with label and score."""

    box: Rect
    label: str
    label_id: int
    score: float


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels, in proportion to the image."""

    line: int
    padding: int
    font: Font
    ascent: Rect  # box of a line of text, below its origin

    @classmethod
    def of(cls, image: Image.Image) -> "_Style":
        side = min(image.size)
        text = min(72, max(10, round(side / 32)))
        font = _font(text)
        return cls(max(2, round(side / 160)), max(2, text // 5), font, font.getbbox("Ag"))


@dataclass(frozen=True)
class _Tag:
    """A detection's label and score, and the place it is drawn at."""

    text: str
    rect: Rect
    origin: tuple[float, float]
    colour: Colour


class _Occupancy:
    """Counts of the tags at each place of the image, in square cells: a sum over a few takes the place of comparing
    each tag with all others."""

    def __init__(self, size: tuple[int, int], cell: int) -> None:
        self._cell = cell
        self._counts = np.zeros((-(-size[1] // cell), -(-size[0] // cell)), np.uint32)

    def covered(self, rect: Rect) -> int:
        """Cells of other tags that a tag at `rect` would cover."""
        return int(self._at(rect).sum())

    def add(self, rect: Rect) -> None:
        """Count a tag at `rect`."""
        self._at(rect)[:] += 1

    def _at(self, rect: Rect) -> "np.ndarray[tuple[int, int], np.dtype[np.uint32]]":
        x0, y0, x1, y1 = (round(side / self._cell) for side in rect)
        return self._counts[y0:y1, x0:x1]


def draw(image: Image.Image, marks: Sequence[Mark]) -> bytes:
    """`image` as PNG with the box of each of `marks`, and label and score of the best MAX_TAGS."""
    canvas = image.convert("RGB")
    pen = ImageDraw.Draw(canvas)
    style = _Style.of(canvas)
    best_last = sorted(marks, key=lambda mark: mark.score)
    for mark in best_last:
        _draw_box(pen, mark, style, canvas.size)
    # The best detection's tag is placed first. Tags are drawn over the boxes, the best one over the others.
    taken = _Occupancy(canvas.size, style.padding)
    tags = [_tag(mark, style, canvas.size, taken) for mark in reversed(best_last[-MAX_TAGS:])]
    for tag in reversed(tags):
        _draw_tag(pen, tag, style)
    encoded = io.BytesIO()
    canvas.save(encoded, "PNG", compress_level=3)
    return encoded.getvalue()


def label_colour(label_id: int) -> Colour:
    """A colour of the palette, the same as in page/colours.js; after it come its darker, then its lighter shades."""
    rounds, place = divmod(label_id, len(_PALETTE))
    red, green, blue = (_shaded(value, rounds % 3) for value in bytes.fromhex(_PALETTE[place][1:]))
    return red, green, blue


def _shaded(value: int, shade: int) -> int:
    return (value, value * 3 // 5, (value + 255) // 2)[shade]


def text_colour(colour: Colour) -> Colour:
    """Black or white, the easier to read on `colour` (luminance as in WCAG 2.1)."""
    red, green, blue = ((value / 255) ** 2.2 for value in colour)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)


def _draw_box(pen: ImageDraw.ImageDraw, mark: Mark, style: _Style, size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = mark.box
    right, bottom = min(x1, size[0] - 1), min(y1, size[1] - 1)
    box = (min(x0, right), min(y0, bottom), right, bottom)
    colour = label_colour(mark.label_id)
    halo = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
    pen.rectangle(
        halo, outline=text_colour(colour), width=style.line + 2
    )  # visible on a background of its own colour too
    pen.rectangle(box, outline=colour, width=style.line)


def _tag(mark: Mark, style: _Style, size: tuple[int, int], taken: _Occupancy) -> _Tag:
    text, (left, _, right, _) = _fit_text(f"{mark.label} {mark.score:.2f}", mark.label, style, size[0])
    width, height = right - left + 2 * style.padding, style.ascent[3] - style.ascent[1] + 2 * style.padding
    rect = _tag_rect(mark.box, (width, height), size, taken)
    origin = (rect[0] + style.padding - left, rect[1] + style.padding - style.ascent[1])
    return _Tag(text, rect, origin, label_colour(mark.label_id))


def _draw_tag(pen: ImageDraw.ImageDraw, tag: _Tag, style: _Style) -> None:
    x0, y0, x1, y1 = tag.rect
    pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=tag.colour)
    pen.text(tag.origin, tag.text, fill=text_colour(tag.colour), font=style.font)


def _tag_rect(box: Rect, tag: tuple[float, float], size: tuple[int, int], taken: _Occupancy) -> Rect:
    """The place that covers the least of other tags: above the box, inside its top, below it, or inside its bottom."""
    x0, y0, x1, y1 = box
    width, height = tag
    corners = [(x0, y0 - height), (x0, y0), (x0, y1), (x0, y1 - height), (x1 - width, y0), (x1 - width, y1 - height)]
    best = min((_inside(corner, tag, size) for corner in corners), key=taken.covered)
    taken.add(best)
    return best


def _inside(corner: tuple[float, float], tag: tuple[float, float], size: tuple[int, int]) -> Rect:
    x = round(max(0, min(corner[0], size[0] - tag[0])))
    y = round(max(0, min(corner[1], size[1] - tag[1])))
    return x, y, x + tag[0], y + tag[1]


def _fit_text(text: str, label: str, style: _Style, width: int) -> tuple[str, Rect]:
    """`text`, its label cut to fit into `width`, and its box; the score is dropped before the start of the label."""
    score = text[len(label) :]
    label = " ".join(label.split())
    longest = min(len(label), _MAX_LABEL)
    for tail in (score, ""):
        fitting, low, high = None, min(2, longest), longest
        while low <= high:  # the whole label first, else by bisection
            kept = high if fitting is None and high == longest else (low + high) // 2
            shown = (label if kept == len(label) else label[:kept].rstrip() + _ELLIPSIS) + tail
            box = style.font.getbbox(shown)
            if box[2] - box[0] + 2 * style.padding <= width:
                fitting, low = (shown, box), kept + 1
            else:
                high = kept - 1
        if fitting:
            return fitting
    return label[:3], style.font.getbbox(label[:3])


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    for name in _FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)
