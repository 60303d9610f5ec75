"""Fuzz targets: everything that reads bytes of a stranger, with the refusals it may raise and inputs to start from."""

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.data.captions import open_captions
from models.data.coco import CocoSet
from models.data.images import DataError
from models.data.odvg import OdvgSet, read_label_map
from server.app import create_app
from server.contract import heic
from server.contract.image_file import FORMATS, ImageFileError, decode
from server.contract.manifest import MANIFEST_FILE, BundleError, read_manifest
from server.settings import Settings
from tests.server.fakes import FakeDetector, FakeEncoder

from . import seeds

MAX_PIXELS = 2**20


@dataclass(frozen=True)
class Target:
    """A reader to fuzz: `read` takes bytes and may raise `refusals`; anything else it raises is a bug.

    `seeds` makes the inputs to start from.
    """

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], dict[str, bytes]]

    def __call__(self, data: bytes) -> bool:
        """Whether `data` was read rather than refused."""
        try:
            self.read(data)
        except self.refusals as refusal:
            if not str(refusal).strip():
                raise AssertionError("a refusal names the fault") from refusal
            return False
        return True


def _pictures() -> Target:
    formats = (*FORMATS, *(["HEIC"] if heic.is_installed() else []))

    def read(data: bytes) -> None:
        image = decode(data, name="the image", max_pixels=MAX_PIXELS, formats=formats)
        assert 0 < image.width * image.height <= MAX_PIXELS, "within bounds"
        image.convert("RGB")

    return Target(read, (ImageFileError,), seeds.pictures)


def _records() -> Target:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-records-"))
    (folder / "a.jpg").write_bytes(seeds.pictures()["plain.jpg"])

    def read(data: bytes) -> None:
        form, _, content = data.partition(b"\n")
        for skip in (True, False):  # what is left out with `skip` is refused without it
            _open_records(form.decode("latin-1"), content, folder, skip=skip)

    return Target(read, (DataError,), seeds.records)


def _open_records(form: str, content: bytes, folder: Path, *, skip: bool) -> None:
    file = folder / f"set.{form}"
    if form not in seeds.RECORD_FORMATS:
        return
    file.write_bytes(content)
    if form == "coco.json":
        records = CocoSet(file, folder, skip=skip)
    elif form == "odvg.jsonl":
        records = OdvgSet(file, folder, skip=skip)
    elif form == "label_map.json":
        read_label_map(file)
        return
    else:
        records = open_captions(file, folder, skip=skip)
    for index in range(min(len(records), 5)):
        records[index]


def _manifests() -> Target:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-manifest-"))

    def read(data: bytes) -> None:
        (folder / MANIFEST_FILE).write_bytes(data)
        read_manifest(folder)

    return Target(read, (BundleError,), seeds.manifests)


class _Refused(Exception):
    """An answer that is a problem of the request."""


def _bodies() -> Target:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-bodies-"))
    app = create_app(Settings(warm_up="none"), [FakeDetector(folder), FakeEncoder(folder)])
    loop = asyncio.new_event_loop()
    lifespan = app.router.lifespan_context(app)
    loop.run_until_complete(lifespan.__aenter__())  # lives as long as the process

    def read(data: bytes) -> None:
        head, _, body = data.partition(b"\n")
        path, _, content_type = head.partition(b" ")
        status, answer = loop.run_until_complete(_post(app, path, content_type, body))
        assert status < 500, (status, answer)
        if status >= 400:
            raise _Refused(json.loads(answer)["detail"])

    return Target(read, (_Refused,), seeds.bodies)


async def _post(app: Callable[..., object], path: bytes, content_type: bytes, body: bytes) -> tuple[int, bytes]:
    """The status and body of the app's answer to a POST of `body` in pieces."""
    path, _, query = path.partition(b"?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path.decode("latin-1"), "raw_path": path, "query_string": query, "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", content_type)],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    middle = len(body) // 2
    parts = [(body[:middle], True), (body[middle:], False)]
    status, answer = 0, []

    async def receive() -> dict[str, object]:
        if not parts:
            await asyncio.Event().wait()  # the client stays
        part, more = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(message: dict[str, object]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            answer.append(message.get("body", b""))

    await app(scope, receive, send)
    return status, b"".join(answer)


def _planted() -> Target:
    def read(data: bytes) -> None:
        if data[:2] == b"bu":
            raise KeyError(data)

    return Target(read, (), lambda: {"seed": b"be"})


TARGETS: dict[str, Callable[[], Target]] = {
    "pictures": _pictures,
    "records": _records,
    "manifests": _manifests,
    "bodies": _bodies,
}
PLANTED = {"planted": _planted}  # a bug, to test that fuzzing finds one
