"""Hostile input for hypothesis: damaged images, odd texts, bodies of any structure."""

import struct
import zlib

from hypothesis import strategies as st
from PIL import Image

from tests.server.fakes import picture

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "1", "L", "LA"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "1", "P"),
    "TIFF": ("RGB", "CMYK", "1", "RGBA"),
}
VALID = {
    (form, mode): picture("red", (24, 18), form=form, mode=mode) for form, modes in MODES.items() for mode in modes
}
VALID |= {("TIFF", how): picture("red", (24, 18), form="TIFF", compression=how) for how in ("tiff_lzw", "tiff_deflate")}
VALID |= {("JPEG", "progressive"): picture("red", (24, 18), form="JPEG", progressive=True)}
MAGIC = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8 ", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
CLAIMED = st.one_of(
    st.sampled_from((0, 1, 24, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)), st.integers(0, 2**32 - 1)
)


@st.composite
def _changed(draw):
    """A valid file with a few bytes changed, lost, doubled or added."""
    data = bytearray(draw(st.sampled_from(list(VALID.values()))))
    for _ in range(draw(st.integers(1, 6))):
        place, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(1, 12))
        how = draw(st.sampled_from(("change", "change", "lose", "double", "add", "cut")))
        if how == "change":
            data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif how == "lose":
            del data[place : place + length]
        elif how == "double":
            data[place:place] = data[place : place + length]
        elif how == "add":
            data[place:place] = draw(st.binary(max_size=40))
        else:
            del data[place:]
    return bytes(data)


@st.composite
def _spliced(draw):
    """The beginning of one valid file and the end of another."""
    first, second = (draw(st.sampled_from(list(VALID.values()))) for _ in range(2))
    return first[: draw(st.integers(0, len(first)))] + second[draw(st.integers(0, len(second))) :]


@st.composite
def _claiming(draw):
    """A valid file whose header claims another width and height."""
    (form, _), data = draw(st.sampled_from(list(VALID.items())))
    changed, width, height = bytearray(data), draw(CLAIMED), draw(CLAIMED)
    if form == "PNG":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif form == "BMP":
        changed[18:26] = struct.pack("<II", width, height)
    elif form == "GIF":
        for place in (6, changed.index(b",", 13) + 5):  # of the screen, of its first picture
            changed[place : place + 4] = struct.pack("<HH", width % 2**16, height % 2**16)
    elif form == "WEBP":
        place = 24 if changed[12:16] == b"VP8X" else 26
        changed[place : place + 4] = struct.pack("<HH", width % 2**16, height % 2**16)
    elif form == "JPEG":
        place = max(changed.find(b"\xff\xc0"), changed.find(b"\xff\xc2"))
        changed[place + 5 : place + 9] = struct.pack(">HH", height % 2**16, width % 2**16)
    else:
        for tag, value in ((256, width), (257, height)):
            place = changed.rindex(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in changed else -1
            kind = "<HHII" if place >= 0 else "<HHIH"
            place = place if place >= 0 else changed.rindex(struct.pack("<HH", tag, 3))
            entry = struct.pack(kind, tag, 4 if kind == "<HHII" else 3, 1, value if kind == "<HHII" else value % 2**16)
            changed[place : place + len(entry)] = entry
    return bytes(changed)


@st.composite
def _png_of_any_header(draw):
    """A PNG with any size, depth, colour type, compression, filter and interlacing, and any rows."""
    header = struct.pack(">II", draw(CLAIMED), draw(CLAIMED)) + draw(st.binary(min_size=5, max_size=5))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    extra = chunk(
        draw(st.sampled_from((b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"zTXt", b"acTL"))), draw(st.binary())
    )
    rows = chunk(b"IDAT", zlib.compress(draw(st.binary(max_size=300))))
    return MAGIC[1] + chunk(b"IHDR", header) + extra + rows + chunk(b"IEND", b"")


@st.composite
def _with_odd_exif(draw):
    """A JPEG with any EXIF data."""
    exif = draw(
        st.one_of(st.binary(max_size=200), st.builds(_exif, st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)))
    )
    return VALID["JPEG", "RGB"][:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + VALID["JPEG", "RGB"][2:]  # fmt: skip  # noqa: E501


def _exif(tag, value):
    exif = Image.Exif()
    exif[0x0112] = value
    exif[tag] = value
    return exif.tobytes()[6:]


PICTURES = st.one_of(
    _changed(),
    _changed(),
    _spliced(),
    _claiming(),
    _png_of_any_header(),
    _with_odd_exif(),
    st.binary(max_size=400),
    st.builds(lambda magic, rest: magic + rest, st.sampled_from(MAGIC), st.binary(max_size=400)),
    st.sampled_from(list(VALID.values())),
)

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)  # lone surrogates too
TEXTS = st.one_of(
    ANY_TEXT,
    st.text(st.characters(categories=("Cc", "Cf", "Zl", "Zp", "Zs", "Mn", "Co", "Cn")), max_size=30),
    st.text(st.sampled_from("אבجدعربي\u202e\u202d\u2066\u200f abc.?"), max_size=40),
    st.text(st.sampled_from("🦊👩\u200d🚀🇩🇪👍🏽\ufe0f犬a ."), max_size=40),
    st.text(st.sampled_from("a\0.? &;<amp#x'\"{}[]SEPCLU"), max_size=60),
    st.sampled_from(
        ("[SEP]", "[CLS]. [PAD]", "<|endoftext|>", "dog", "&amp;amp;lt;", "ﬁ ﷺ ẞ İ", "a\u0300" * 200, "." * 99)
    ),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=5), st.integers(1, 3000)),
)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.integers(10**300, 10**310),
        ANY_TEXT,
        st.sampled_from(("dog", "clip-mini", "data:image/png;base64,", "https://a.example/", "xyxy", "%%", "=")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
