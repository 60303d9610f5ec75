"""Decoding: upright, bounded before decoding, and every fault named with the image it is in."""

import contextlib
import io
import struct
import time
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from server.contract import image_file
from server.contract.image import preprocess
from server.contract.image_file import (
    FORMATS,
    OPTIONAL_FORMATS,
    DamagedFile,
    ImageFileError,
    OversizedPicture,
    UnsupportedFile,
    decode,
    upright,
    webp_size,
)
from server.contract.manifest import Preprocessing
from tests.server.fakes import picture

RULES = Preprocessing(resize="shorter_crop", shorter=8, rgb_after_resize=True, mean=(0, 0, 0), std=(1, 1, 1))


def read(data, max_pixels=10_000, **options):
    return decode(data, name="image 2 of 3", max_pixels=max_pixels, **options)


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))


def rgb(image):
    return np.asarray(image.convert("RGB"))


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_accepted_formats_decode(form):
    assert read(picture(form=form)).size == (40, 30)


def test_other_format_is_refused():
    with pytest.raises(UnsupportedFile, match=r"this server reads: JPEG, PNG, WEBP, GIF, BMP, TIFF$"):
        read(picture(form="TGA"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_accepted_mode_can_be_preprocessed(mode):
    image = Image.new("RGB", (40, 30), "red").convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256)
    decoded = read(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert preprocess(decoded, RULES).shape == (3, 8, 8)


def test_mode_is_left_to_preprocessing():
    assert read(picture(mode="P")).mode == "P"


def test_sixteen_bit_grey_keeps_its_brightness():
    image = Image.fromarray(np.full((30, 40), 128 * 256, np.uint16))
    assert np.asarray(read(encoded(image, "PNG")).convert("RGB")).mean() == 128


def test_float_picture_is_refused_by_mode():
    with pytest.raises(DamagedFile, match="image 2 of 3 has colour mode F"):
        read(encoded(Image.new("F", (4, 4)), "TIFF"))


TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def corner(mode="RGB"):
    """A picture, 40 wide and 30 high, whose top left is bright."""
    image = Image.new("RGB", (40, 30), "black")
    image.paste("white", (0, 0, 20, 15))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def turned(orientation, form, mode="RGB", **entries):
    """The file of `corner` as a camera held otherwise stores it, with further EXIF `entries`."""
    image, turn = corner(mode), TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image if turn is None else image.transpose(turn), form, exif=exif, **entries)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "1", "LA", "P", "I;16")),
        *(("TIFF", mode) for mode in ("RGB", "1", "I;16", "CMYK")),
        ("WEBP", "RGB"),
        ("MPO", "RGB"),
    ],
)
def test_exif_orientation_is_applied(form, mode, orientation):
    more = {"save_all": True, "append_images": [corner()]} if form == "MPO" else {}
    decoded = read(turned(orientation, form, mode, **more))
    assert decoded.size == (40, 30)
    bright = rgb(decoded)[..., 0] > 128
    assert (bright != (rgb(corner())[..., 0] > 128)).mean() < 0.02, "JPEG blurs the edges"


def exif_with(entries, order="<"):
    """EXIF data with orientation 6 behind `entries` (tag, type, count, the four bytes of the value)."""
    packed = [struct.pack(order + "HHI4s", *entry) for entry in (*entries, (0x0112, 3, 1, struct.pack(order + "H", 6)))]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return b"Exif\0\0" + head + struct.pack(order + "H", len(packed)) + b"".join(packed) + b"\0\0\0\0"


other_tags = st.integers(0, 0xFFFF).filter(lambda tag: tag != 0x0112)
entry = st.tuples(other_tags, st.integers(0, 20), st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=4))


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.lists(entry, max_size=5), st.sampled_from("<>"), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_orientation_is_read_beside_damaged_entries(entries, order, form):
    exif = exif_with(entries, order)
    stored = corner().transpose(TURNS[6])
    data = encoded(stored, form, exif=exif)
    assert read(data).size == (40, 30)
    assert upright(Image.open(io.BytesIO(data))).size == (40, 30)


def test_tiff_orientation_is_read_beside_a_damaged_directory():
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    info.tagtype[0x8825], info[0x8825] = 2, "GPS"  # a text where a position should be
    assert read(encoded(corner().transpose(TURNS[6]), "TIFF", tiffinfo=info)).size == (40, 30)


@pytest.mark.parametrize("size", [(30, 40), (40, 30), None])
def test_annotated_size_tells_whether_a_picture_is_turned(size):
    for form in ("JPEG", "TIFF"):
        decoded = read(turned(6, form), size=size)
        assert (decoded.height, decoded.width) == (size or (30, 40))
        bright = rgb(decoded)[..., 0] > 128
        expected = corner() if size != (40, 30) else corner().transpose(TURNS[6])
        assert (bright != (rgb(expected)[..., 0] > 128)).mean() < 0.02


def test_several_orientations_of_equal_size_are_shown_upright():
    assert rgb(read(turned(3, "PNG"), size=(30, 40)))[0, 0, 0] == 255


@pytest.mark.parametrize("kind", ["text", "international", "compressed", "profile"])
def test_png_with_a_megabyte_of_metadata_is_read(kind):
    info, profile = PngImagePlugin.PngInfo(), None
    long = "a workflow " * 300_000
    if kind == "profile":
        profile = long.encode()
    elif kind == "international":
        info.add_itxt("workflow", long, zip=True)
    else:
        info.add_text("Raw profile type exif" if kind == "compressed" else "workflow", long, zip=True)
    data = encoded(corner(), "PNG", pnginfo=info, icc_profile=profile)
    assert np.array_equal(rgb(read(data)), rgb(corner()))


def test_png_text_of_imagemagick_tells_the_orientation():
    info = PngImagePlugin.PngInfo()
    exif = exif_with([]).hex()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif) // 2:8}\n{exif}\n", zip=True)
    assert read(encoded(corner().transpose(TURNS[6]), "PNG", pnginfo=info)).size == (40, 30)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("padding", [b"", b"\xff", b"\0" * 50])
def test_jpeg_without_an_end_mark_is_read(options, padding):
    whole = encoded(noise(), "JPEG", quality=90, **options)
    assert whole.endswith(b"\xff\xd9")
    assert np.array_equal(rgb(read(whole[:-2] + padding)), rgb(read(whole)))


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.floats(0.02, 1))
def test_jpeg_that_lacks_pixels_is_refused(progressive, share):
    whole = encoded(noise(), "JPEG", quality=90, progressive=progressive)
    kept = whole[: round(share * (len(whole) - 2))]
    try:
        decoded = read(kept)
    except ImageFileError:
        return
    assert np.array_equal(rgb(decoded), rgb(read(whole))), "no pixel of it was in what was cut"


def tiff(*pages, kinds=(), **options):
    """A TIFF of these pictures; `kinds` are their NewSubfileTypes."""
    frames = []
    for page, kind in zip_longest(pages, kinds[: len(pages)]):
        info = TiffImagePlugin.ImageFileDirectory_v2()
        if kind is not None:
            info[254] = kind
        page.encoderinfo = {"tiffinfo": info}
        frames.append(page)
    return encoded(
        frames[0], "TIFF", save_all=True, append_images=frames[1:], tiffinfo=frames[0].encoderinfo["tiffinfo"]
    )


def test_tiff_shows_its_full_page_beside_thumbnails_and_masks():
    full, small, mask = corner(), corner().resize((20, 15)), Image.new("1", (40, 30))
    for pages, kinds in (
        ((full, small), ()),
        ((small, full), ()),
        ((full, corner().resize((10, 8))), ()),
        ((full, corner().resize((35, 25)), mask), (0, 1, 4)),
        ((corner().resize((35, 25)), full), (1, 0)),
    ):
        assert np.array_equal(rgb(read(tiff(*pages, kinds=kinds))), rgb(full))


@pytest.mark.parametrize("second", [(40, 30), (30, 40), (39, 29), (20, 20)])
def test_tiff_of_several_documents_is_refused(second):
    with pytest.raises(DamagedFile, match="image 2 of 3 is animated or has several pages"):
        read(tiff(corner(), corner().resize(second)))


def test_tiff_of_very_many_pages_is_refused_soon():
    with pytest.raises(DamagedFile, match="several pages"):
        read(tiff(*[corner().resize((4, 3))] * 80, kinds=[1] * 80))


def test_grey_of_twelve_and_sixteen_bits_keeps_white_white():
    values = np.full((4, 4), 0xF000, np.uint16)
    for photometric, expected in ((1, 0xF0), (0, 0x0F)):
        info = TiffImagePlugin.ImageFileDirectory_v2()
        data = bytearray(encoded(Image.fromarray(values), "TIFF", tiffinfo=info))
        place = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
        data[place] = photometric
        assert rgb(read(bytes(data))).mean() == expected


def test_picture_of_another_kind_is_named():
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(UnsupportedFile, match=r"is HEIC, which is not read .*: convert it to JPEG"):
        read(heic)
    with pytest.raises(UnsupportedFile, match=r"is AVIF, which is not read \(the setting image_formats reads it\)"):
        read(b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(100))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("WEBP", picture(form="WEBP")[:-8]),
        ("JPEG", picture(form="JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")),  # of 12 bits
        ("TIFF", b"II*\0" + bytes(40)),
        ("TIFF", b"MM\0*" + bytes(40)),
        ("GIF", b"GIF89a"),
        ("BMP", b"BM" + bytes(60)),
        ("PNG", picture()[:20]),
    ],
)
def test_picture_of_a_read_format_that_is_not_read_is_named_by_it(kind, data):
    with pytest.raises(UnsupportedFile, match=f"is a damaged or truncated {kind}, or a variant of {kind}"):
        read(data)
    others = tuple(form for form in FORMATS if form != kind)
    with pytest.raises(UnsupportedFile, match=f"is {kind}, which is not read: convert it"):
        read(data, formats=others)


@pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow lacks AVIF")
def test_avif_is_read_where_it_is_asked_for():
    data = turned(6, "AVIF", quality=90)
    assert read(data, formats=(*FORMATS, "AVIF")).size == (40, 30)
    with pytest.raises(UnsupportedFile, match="damaged or truncated AVIF"):
        read(data[:60], formats=(*FORMATS, "AVIF"))


def test_pixels_are_bounded_before_decoding():
    header = picture(size=(200, 100))[:60]  # the size is known, the pixels are not there
    with pytest.raises(OversizedPicture, match="image 2 of 3 is 200 x 100 = 20000 pixels, at most 10000"):
        read(header)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"quality": 1, "alpha_quality": 1}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_tells_its_size_before_it_is_opened(options, mode):
    data = picture(size=(123, 45), form="WEBP", mode=mode, **options)
    assert webp_size(data) == (123, 45)
    with pytest.raises(OversizedPicture, match="123 x 45"):
        read(data[:40], max_pixels=1000)
    assert webp_size(b"RIFF" + bytes(60)) is webp_size(picture()) is None


def test_decompression_bomb_is_refused():
    bomb = bytearray(picture(size=(1, 1)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageFileError):
        read(bytes(bomb), max_pixels=100_000_000)


def test_thin_strip_is_refused(monkeypatch):
    monkeypatch.setattr(image_file, "MAX_ASPECT_RATIO", 20)
    with pytest.raises(OversizedPicture, match="one side may be at most 20 times the other"):
        read(picture(size=(300, 2)))


def test_empty_file_is_refused():
    with pytest.raises(DamagedFile, match="image 2 of 3 is empty"):
        read(b"")


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7", b"\x89PNG\r\n", b"<svg/>"])
def test_not_an_image_is_refused_with_the_formats(data):
    with pytest.raises(UnsupportedFile, match=r"image 2 of 3 is not a picture.*JPEG, PNG"):
        read(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_image_is_refused(form):
    whole = encoded(noise(), form)
    with pytest.raises(ImageFileError, match="image 2 of 3"):
        read(whole[: len(whole) // 2])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_refused(form):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(DamagedFile, match="image 2 of 3 is animated or has several pages"):
        read(moving)


def test_animation_of_a_million_frames_is_refused_at_its_second():
    whole = encoded(Image.new("P", (1, 1)), "GIF")
    start = whole.index(b"\x2c")
    data = whole[:start] + whole[start:-1] * 1_000_000 + b";"
    started = time.monotonic()
    with pytest.raises(DamagedFile, match="is animated"):
        read(data)
    assert time.monotonic() - started < 2


def test_jpeg_of_several_pictures_shows_the_first():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    red, _, blue = read(several).getpixel((10, 10))
    assert red > 200 > 50 > blue


WHOLE = [
    *(picture(form=form) for form in FORMATS),
    *(turned(6, form, mode) for form, mode in (("PNG", "I;16"), ("TIFF", "I;16"), ("WEBP", "RGB"), ("MPO", "RGB"))),
    encoded(corner(), "JPEG", progressive=True, exif=exif_with([(0x8825, 2, 9, b"text")])),
    encoded(corner("P"), "BMP"),
    encoded(corner(), "TIFF", compression="tiff_lzw"),
    encoded(corner(), "TIFF", compression="jpeg"),
    tiff(corner(), corner().resize((20, 15))),
    *([turned(6, "AVIF")] if features.check("avif") else []),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of damaged metadata
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6), st.data())
def test_damaged_image_decodes_or_is_refused(whole, changes, data):
    damaged = bytearray(whole)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    cut = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    with contextlib.suppress(ImageFileError):
        decoded = read(bytes(damaged[:cut]), formats=(*FORMATS, *OPTIONAL_FORMATS))
        assert preprocess(decoded, RULES).shape == (3, 8, 8)
