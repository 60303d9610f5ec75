"""Seeded generator of valid and malformed requests, each with the answers that are acceptable."""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from PIL import Image

LABELS = (
    "dog",
    "red car",
    "bicycle",
    "small house",
    "cat",
    "guitar",
    "boat",
    "umbrella",
    "crème brûlée",
    "犬",
    "🦊 fox",
)
SIZES = ((64, 48), (320, 240), (640, 480), (480, 640), (1000, 300), (333, 777), (1600, 1200))  # (width, height)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
DETECTORS = ("grounding-dino-mini", "glip-mini")
BOUNDARY = "a-boundary-that-no-picture-holds"
JSON, FORM = "application/json", f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class RequestCase:
    """One HTTP request and its `accepted` outcomes: a status, or a problem's status and the last part of its type.

    `disconnects`: the client disconnects during its "upload" or while it waits for the answer ("wait").
    """

    kind: str
    path: str
    accepted: frozenset[str]
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    disconnects: str = ""


def form(fields: Sequence[tuple[str, str | bytes]], *, end: bool = True) -> bytes:
    """A multipart body of `fields`; bytes become files."""
    parts = []
    for name, value in fields:
        file = '; filename="x"' if isinstance(value, bytes) else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def picture(size: tuple[int, int], form: str = "JPEG", **options: object) -> bytes:
    """An encoded image of noise, `size` (width, height)."""
    encoded = io.BytesIO()
    Image.effect_noise((size[0] // 8 or 1, size[1] // 8 or 1), 60).resize(size).convert("RGB").save(
        encoded, form, **options
    )
    return encoded.getvalue()


def claiming_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims (width, height)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


class Traffic:
    """An endless, seeded mixture of requests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pictures = [picture(size, form) for size in SIZES for form in FORMATS]
        frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime")]
        encoded = io.BytesIO()
        frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:])
        self._animated = encoded.getvalue()
        good = (self._detect, self._detect_json, self._detect_raw, self._drawn, self._classify, self._similarity)
        self._makers: list[Callable[[], RequestCase]] = [*good * 4, self._prioritised, self._short_deadline, self._read]
        self._makers += [self._disconnecting_upload, self._disconnecting_wait, *[self._bad] * 6]

    def next(self) -> RequestCase:
        """One more request."""
        return self._random.choice(self._makers)()

    def _picture(self) -> bytes:
        return self._random.choice(self._pictures)

    def _images(self) -> list[tuple[str, str | bytes]]:
        return [("image", self._picture()) for _ in range(self._random.choice((1, 1, 1, 2, 4)))]

    def _labels(self) -> list[str]:
        """Random labels; a quarter of them are new, so that caches have to evict."""
        new = f"thing {self._random.randrange(10**6)}"
        return [self._random.choice((*LABELS[:3], self._random.choice(LABELS), new)) for _ in range(self._count())]

    def _count(self) -> int:
        return self._random.choice((1, 2, 3, 8))

    def _post(self, kind: str, path: str, fields: Sequence[tuple[str, str | bytes]], *answers: str) -> RequestCase:
        return RequestCase(kind, path, frozenset(answers or ("200",)), form(fields), {"Content-Type": FORM})

    def _detect(self) -> RequestCase:
        fields = [*self._images(), ("model", self._random.choice(DETECTORS))]
        return self._post("detect", "/detect", [*fields, *(("labels", word) for word in self._labels())])

    def _detect_json(self) -> RequestCase:
        images = [base64.b64encode(self._picture()).decode() for _ in range(self._random.choice((1, 2)))]
        body = {"images": images, "prompt": ". ".join(self._labels()), "box_format": "xywh", "box_threshold": 0.2}
        return RequestCase(
            "detect, JSON", "/detect", frozenset({"200"}), json.dumps(body).encode(), {"Content-Type": JSON}
        )

    def _detect_raw(self) -> RequestCase:
        query = urlencode([("labels", word) for word in self._labels()])
        return RequestCase(
            "detect, raw", f"/detect?{query}", frozenset({"200"}), self._picture(), {"Content-Type": "image/jpeg"}
        )

    def _drawn(self) -> RequestCase:
        case = self._post("detect, drawn", "/detect", [("image", self._picture()), ("labels", "dog")])
        return replace(case, headers=case.headers | {"Accept": "image/png"})

    def _classify(self) -> RequestCase:
        more = self._random.choice(([], [("multi_label", "true")], [("top_k", "1")], [("templates", "a small {}.")]))
        words = [("labels", word) for word in self._labels()]
        return self._post("classify", "/classify", [*self._images(), *words, *more])

    def _similarity(self) -> RequestCase:
        more = self._random.choice(([], [("embeddings", "true")]))
        words = [("texts", word) for word in self._labels()]
        return self._post("similarity", "/similarity", [*self._images(), *words, *more])

    def _prioritised(self) -> RequestCase:
        case = self._detect()
        headers = {"X-Priority": self._random.choice(("batch", "interactive")), "X-Request-Timeout-Ms": "600000"}
        return replace(case, kind="batch priority or long deadline", headers=case.headers | headers)

    def _short_deadline(self) -> RequestCase:
        case = self._detect()
        headers = {"X-Request-Timeout-Ms": str(self._random.choice((1, 5, 20, 60)))}
        return replace(
            case,
            kind="short deadline",
            headers=case.headers | headers,
            accepted=frozenset({"200", "504 deadline-passed"}),
        )

    def _read(self) -> RequestCase:
        path = self._random.choice(("/models", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs"))
        return RequestCase("read", path, frozenset({"200"}), method="GET")

    def _disconnecting_upload(self) -> RequestCase:
        return replace(self._detect(), kind="disconnects in upload", accepted=frozenset({"left"}), disconnects="upload")

    def _disconnecting_wait(self) -> RequestCase:
        return replace(
            self._detect(), kind="disconnects while waiting", accepted=frozenset({"left"}), disconnects="wait"
        )

    def _bad(self) -> RequestCase:
        kind, make = self._random.choice(list(BAD.items()))
        return replace(make(self._picture(), self._animated), kind=f"bad: {kind}")


def _form(path: str, answer: str, *fields: tuple[str, str | bytes], **headers: str) -> RequestCase:
    return RequestCase("", path, frozenset({answer}), form(fields), {"Content-Type": FORM} | headers)


def _json(path: str, body: bytes, *answers: str) -> RequestCase:
    return RequestCase("", path, frozenset(answers), body, {"Content-Type": JSON})


def _raw(data: bytes, answer: str) -> RequestCase:
    return RequestCase("", "/classify?labels=dog", frozenset({answer}), data, {"Content-Type": "image/png"})


def _detect_with(image: bytes, answer: str, *fields: tuple[str, str | bytes], **headers: str) -> RequestCase:
    return _form("/detect", answer, ("image", image), *fields, **headers)


DOG = ("labels", "dog")
# Malformed requests by name; each is made from a valid and an animated image.
BAD: dict[str, Callable[[bytes, bytes], RequestCase]] = {
    "no image": lambda *_: _form("/detect", "422 invalid-request", DOG),
    "no label": lambda good, _: _detect_with(good, "422 invalid-request"),
    "text for a picture": lambda *_: _raw(b"hello", "415 unsupported-image"),
    "empty picture": lambda *_: _raw(b"", "422 broken-image"),
    "half a picture": lambda *_: _raw(picture((320, 240), "PNG")[:-2000], "422 broken-image"),
    "animation": lambda _, animated: _raw(animated, "422 broken-image"),
    "decompression bomb": lambda *_: _raw(claiming_png(60_000, 60_000), "413 image-too-large"),
    "thin strip": lambda *_: _raw(picture((900, 4), "PNG"), "413 image-too-large"),
    "unknown field": lambda good, _: _detect_with(good, "422 invalid-request", DOG, ("treshold", "0.5")),
    "unknown model": lambda good, _: _detect_with(good, "404 unknown-model", DOG, ("model", "gpt")),
    "wrong model": lambda good, _: _detect_with(good, "422 unsuitable-model", DOG, ("model", "clip-mini")),
    "threshold of 2": lambda good, _: _detect_with(good, "422 invalid-request", DOG, ("box_threshold", "2")),
    "label without a letter": lambda good, _: _detect_with(good, "422 unusable-prompt", ("labels", "\u200b\u0301")),
    "label too long": lambda good, _: _detect_with(good, "422 prompt-too-long", ("labels", "dog " * 249)),
    "17 images": lambda good, _: _form("/detect", "422 invalid-request", *[("image", good[:200])] * 17, DOG),
    "1001 labels": lambda good, _: _form("/classify", "422 invalid-request", ("image", good), *[DOG] * 1001),
    "no JSON": lambda *_: _json("/detect", b"{", "400 malformed-body"),
    "lone surrogate": lambda *_: _json("/detect", b'{"image": "", "labels": ["\\ud800"]}', "400 malformed-body"),
    "deep JSON": lambda *_: _json("/classify", b"[" * 10_000 + b"]" * 10_000, "422 invalid-request"),
    "list for a body": lambda *_: _json("/similarity", b"[1, null, {}]", "422 invalid-request"),
    "no base64": lambda *_: _json("/detect", b'{"image": "%%%", "labels": ["dog"]}', "422 invalid-request"),
    "not a number": lambda *_: _json(
        "/detect", b'{"image": "", "labels": ["a"], "box_threshold": NaN}', "422 invalid-request", "400 malformed-body"
    ),
    "URL": lambda *_: _json("/detect", b'{"image_url": "https://a.example/b", "labels": ["a"]}', "422 url-refused"),
    "unterminated form": lambda good, _: RequestCase(
        "",
        "/detect",
        frozenset({"400 malformed-body"}),
        form([("image", good), DOG], end=False),
        {"Content-Type": FORM},
    ),
    "form without a boundary": lambda good, _: RequestCase(
        "", "/detect", frozenset({"400 malformed-body"}), form([DOG]), {"Content-Type": "multipart/form-data"}
    ),
    "no type": lambda good, _: RequestCase("", "/detect", frozenset({"415 unsupported-body"}), good),
    "other type": lambda good, _: RequestCase(
        "", "/detect", frozenset({"415 unsupported-body"}), good, {"Content-Type": "text/plain"}
    ),
    "Accept": lambda good, _: _detect_with(good, "406 not-acceptable", DOG, Accept="video/mp4"),
    "priority": lambda good, _: _detect_with(good, "422 invalid-request", DOG, **{"X-Priority": "urgent"}),
    "deadline": lambda good, _: _detect_with(good, "422 invalid-request", DOG, **{"X-Request-Timeout-Ms": "soon"}),
    "two images to draw": lambda good, _: _detect_with(
        good, "422 invalid-request", ("image", good), DOG, Accept="image/png"
    ),
    "body over its bound": lambda *_: RequestCase(
        "", "/detect", frozenset({"413 body-too-large"}), b"\0" * (34 * 2**20), {"Content-Type": "image/png"}
    ),
    "no such address": lambda *_: RequestCase("", "/detekt", frozenset({"404 not-found"})),
    "no such method": lambda *_: RequestCase("", "/detect", frozenset({"405 method-not-allowed"}), method="DELETE"),
}
