"""Images over HTTP: raw bodies, every colour mode and format, and refusals that name the image."""

import io
import struct
import zlib

import pytest
from PIL import Image

from tests.server.fakes import picture

JPEG = {"Content-Type": "image/jpeg"}
RED, GREEN = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "lime")


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def raw(client, data, path="/classify?labels=g&labels=r", **headers):
    return client.post(path, content=data, headers={"Content-Type": "image/png"} | headers)


def png(size, depth, colour_type, rows):
    """A PNG with a header that claims `size` and holds `rows`, whatever that makes of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def sixteen_bit_png(colour_type, *samples):
    """A 4 x 4 PNG with `samples` of 16 bits for each pixel."""
    return png((4, 4), 16, colour_type, (b"\0" + struct.pack(f">{len(samples)}H", *samples) * 4) * 4)


def turned(colour):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return encoded(Image.new("RGB", (40, 30), colour), "JPEG", exif=exif)


SHOWN_RED = {
    "jpeg": picture("red", form="JPEG"),
    "png": picture("red", form="PNG"),
    "webp": picture("red", form="WEBP"),
    "still gif": picture("red", form="GIF"),
    "bmp": picture("red", form="BMP"),
    "tiff": picture("red", form="TIFF"),
    "progressive jpeg": picture("red", form="JPEG", progressive=True),
    "cmyk jpeg": picture("red", form="JPEG", mode="CMYK"),
    "cmyk tiff": picture("red", form="TIFF", mode="CMYK"),
    "palette": picture("red", mode="P"),
    "palette with a transparent colour": encoded(RED.convert("P"), "PNG", transparency=0),
    "alpha": picture("red", mode="RGBA"),
    "alpha webp": picture("red", mode="RGBA", form="WEBP", lossless=True),
    "half transparent": encoded(Image.new("RGBA", (40, 30), (255, 0, 0, 128)), "PNG"),
    "16-bit": sixteen_bit_png(2, 0xFFFF, 0, 0),
    "16-bit with alpha": sixteen_bit_png(6, 0xFFFF, 0, 0, 0x8000),
    "turned": turned("red"),
}
ANIMATED = {form: encoded(RED, form, save_all=True, append_images=[GREEN]) for form in ("GIF", "WEBP", "PNG", "TIFF")}
REFUSED = {
    "empty": (b"", 422, "broken-image", "is empty"),
    "text": (b"hello", 415, "unsupported-image", "is not a picture in a format this server reads: JPEG, PNG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported-image", "is not a picture"),
    "truncated": (picture(form="JPEG", size=(200, 200))[:-200], 422, "broken-image", "damaged or truncated JPEG"),
    "bomb": (png((60_000, 60_000), 8, 2, b"\0"), 413, "image-too-large", "far more than the"),
    "large": (picture(size=(9000, 6000), form="GIF"), 413, "image-too-large", "at most 50000000 are accepted"),
    "strip": (picture(size=(400, 2)), 413, "image-too-large", "one side may be at most 100 times the other"),
    "float": (encoded(Image.new("F", (4, 4)), "TIFF"), 422, "broken-image", "has colour mode F"),
    "32-bit": (encoded(Image.new("I", (4, 4)), "TIFF"), 422, "broken-image", "has colour mode I"),
} | {
    f"animated {form}": (data, 422, "broken-image", "is animated or has several pages: send one still picture")
    for form, data in ANIMATED.items()
}


@pytest.mark.parametrize("kind", SHOWN_RED)
def test_picture_is_seen_as_a_person_sees_it(client, kind):
    response = raw(client, SHOWN_RED[kind])
    assert response.status_code == 200, response.text
    best = response.json()["results"][0]["scores"][0]
    assert best["label"] == "r"
    assert best["score"] > 0.99


@pytest.mark.parametrize("grey", [sixteen_bit_png(0, 0x8080), sixteen_bit_png(4, 0x8080, 0xFFFF)])
def test_sixteen_bit_grey_is_grey(client, grey):
    response = raw(client, grey, "/classify?labels=r&labels=g&labels=b")
    assert [score["score"] for score in response.json()["results"][0]["scores"]] == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_orientation_is_applied_to_what_is_answered(client):
    (result,) = raw(client, turned("red"), "/detect?labels=dog").json()["results"]
    assert (result["width"], result["height"]) == (30, 40)


@pytest.mark.parametrize("kind", REFUSED)
def test_picture_that_cannot_be_read_is_named_by_its_place(client, kind):
    data, status, slug, reason = REFUSED[kind]
    files = [("image", ("a.png", picture())), ("image", ("b.png", data))]
    response = client.post("/detect", files=files, data={"labels": "dog"})
    assert response.status_code == status, response.text
    assert response.json()["type"] == f"urn:openset:problem:{slug}"
    assert response.json()["detail"].startswith("image 2 of 2 ")
    assert reason in response.json()["detail"]


def test_image_as_the_body_answers_like_a_form(client):
    query = "labels=dog&labels=a%20cat&box_threshold=0.85&box_format=xywh"
    by_body = raw(client, picture("red", form="JPEG"), f"/detect?{query}", **JPEG)
    by_form = client.post(
        "/detect",
        files=[("image", ("a.jpg", picture("red", form="JPEG")))],
        data={"labels": ["dog", "a cat"], "box_threshold": "0.85", "box_format": "xywh"},
    )
    assert by_body.status_code == 200, by_body.text
    assert by_body.json()["results"] == by_form.json()["results"]


@pytest.mark.parametrize("content_type", ["image/png", "IMAGE/PNG", "image/*", "image/jpg; q=1"])
def test_bytes_decide_the_format_not_the_content_type(client, content_type):
    assert raw(client, picture(form="WEBP"), **{"Content-Type": content_type}).status_code == 200


def test_image_as_the_body_can_be_drawn_on(client):
    response = raw(client, picture("red"), "/detect?labels=dog", Accept="image/png")
    assert Image.open(io.BytesIO(response.content)).size == (40, 30)


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("", "labels", "Field required"),
        ("labels=r&colour=red", "colour", "there is no such field"),
        ("labels=r&top_k=1&top_k=2", "top_k", "this field may be given only once"),
        ("labels=r&top_k=many", "top_k", "valid integer"),
        ("labels=r&image=x", "image", "the body is the image"),
        ("labels=r&images=x", "images", "the body is the image"),
    ],
)
def test_query_that_does_not_fit_is_named(client, query, field, reason):
    response = raw(client, picture(), f"/classify?{query}")
    assert (response.status_code, response.json()["type"]) == (422, "urn:openset:problem:invalid-request")
    (fault,) = response.json()["errors"]
    assert fault["field"] == field
    assert reason in fault["reason"]


def test_image_as_the_body_is_bounded(start):
    response = raw(start(max_body_bytes=2000), b"x" * 3000)
    assert (response.status_code, response.json()["type"]) == (413, "urn:openset:problem:body-too-large")


def test_other_format_is_refused_with_those_that_are_read(client):
    response = raw(client, picture(form="TGA"))
    assert response.status_code == 415
    assert "this server reads: JPEG, PNG, WEBP, GIF, BMP, TIFF" in response.json()["detail"]
