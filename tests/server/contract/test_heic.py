"""HEIC by its extra: upright, bounded, and no picture that its header does not tell of."""

import asyncio
import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.contract import heic
from server.contract.image_file import FORMATS, ImageFileError, UnsupportedFile, decode
from server.contract.manifest import Preprocessing
from server.inference.decoders import ProcessDecoders
from server.inference.images import PreparedImage, Work
from server.request_context import RequestContext
from server.settings import Settings, SettingsError, read_settings

WITH_HEIC = (*FORMATS, "HEIC")
HEADER = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"
needed = pytest.mark.skipif(not heic.is_installed(), reason="pillow-heif, of the extra heic, is missing")


def picture(size=(40, 30), *, orientation=1, **options):
    heic.register()
    image, data = Image.new("RGB", size, "red"), io.BytesIO()
    image.paste("blue", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()  # pillow-heif writes boxes of rotation and mirroring for it, as phones do
    image.save(data, "HEIF", **options)
    return data.getvalue()


def is_red(image, place):
    red, _, blue = image.convert("RGB").getpixel(place)
    return red > 200 and blue < 60


def test_without_it_heic_is_refused_with_the_way_to_read_it():
    with pytest.raises(UnsupportedFile, match=r"HEIC, which is not read \(the setting image_formats with the extra"):
        decode(HEADER, name="x")


def test_setting_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(heic, "is_installed", lambda: False)
    with pytest.raises(SettingsError, match=r"the extra heic is needed for HEIC: .*install.*heic"):
        read_settings(image_formats="JPEG,HEIC")


@needed
@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_read_upright_once(orientation):
    image = decode(picture(orientation=orientation), name="x", formats=WITH_HEIC)
    reference = Image.new("RGB", (40, 30), "red")
    reference.paste("blue", (0, 0, 20, 30))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    reference.save(turned, "PNG", exif=exif)
    wanted = decode(turned.getvalue(), name="x")
    assert image.size == wanted.size
    for place in [(2, 2), (image.width - 3, image.height - 3), (2, image.height - 3)]:
        assert is_red(image, place) == is_red(wanted, place)


@needed
@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_damaged_heic_is_refused_or_read_and_nothing_else(place, change):
    data = bytearray(picture())
    data[place : place + len(change)] = change
    with contextlib.suppress(ImageFileError):
        image = decode(bytes(data), name="x", formats=WITH_HEIC, max_pixels=10_000)
        assert 0 < image.width * image.height <= 10_000


@needed
def test_bounds_hold_before_it_is_decoded():
    with pytest.raises(ImageFileError, match="pixels, at most 1000"):
        decode(picture(), name="x", formats=WITH_HEIC, max_pixels=1000)


@needed
def test_several_pictures_in_one_file_are_refused():
    heic.register()
    frames, data = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime")], io.BytesIO()
    frames[0].save(data, "HEIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="several pages"):
        decode(data.getvalue(), name="x", formats=WITH_HEIC)


@needed
def test_decoder_process_reads_a_large_one_within_its_bounds():
    settings = Settings(image_formats=WITH_HEIC, decode_threads=1)
    rules = Preprocessing(resize="shorter_crop", shorter=32, mean=(0, 0, 0), std=(1, 1, 1)).model_dump()
    decoders = ProcessDecoders(settings)

    async def scene():
        work = Work(picture((4000, 3000)), "x", settings.max_image_pixels, settings.image_formats, rules)
        return await decoders.run(work, RequestContext())

    try:
        prepared = asyncio.run(scene())
    finally:
        decoders.close()
    assert isinstance(prepared, PreparedImage)
    assert (prepared.size, prepared.pixels.shape) == ((3000, 4000), (3, 32, 32))
