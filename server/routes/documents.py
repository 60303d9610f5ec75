"""Documents rendered once for each state, off the event loop, and sent with an ETag; a page made for all who ask."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response


@dataclass(frozen=True)
class Document:
    """Rendered bytes and their ETag."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "Document":
        """The document of some bytes."""
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def response(self, request: Request) -> Response:
        """The document, or 304 where the client has it already (RFC 9110, 13.1.2)."""
        headers = {"ETag": self.etag, "Cache-Control": "private, no-cache"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known or known == ["*"]:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


class DocumentCache:
    """Documents of one app by name, each for its latest state. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._rendered: dict[str, tuple[object, asyncio.Future[Document]]] = {}

    async def get(self, name: str, state: object, render: Callable[[], bytes], *, media_type: str) -> Document:
        """The document as `render` makes it; called again, in a thread, once `state` is no longer equal."""
        held = self._rendered.get(name)
        if held is None or held[0] != state:
            rendering = asyncio.ensure_future(asyncio.to_thread(lambda: Document.of(render(), media_type)))
            self._rendered[name] = held = state, rendering
        try:
            return await asyncio.shield(held[1])
        except Exception:
            if self._rendered.get(name) is held:
                del self._rendered[name]
            raise


class SharedRendering:
    """A page that always changes, rendered for all who ask at once, in a thread, for a tenth of the time at most."""

    REST = 9  # times the last rendering took

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._next: asyncio.Future[bytes] | None = None  # not begun: what it shows is no older than the question
        self._running: asyncio.Future[bytes] | None = None
        self._rested = 0.0  # `time.monotonic`

    async def get(self) -> bytes:
        """The page, as it is after this call."""
        if self._next is None or self._next.done():
            self._next = asyncio.ensure_future(self._rendered(self._running))
        return await asyncio.shield(self._next)

    async def _rendered(self, before: "asyncio.Future[bytes] | None") -> bytes:
        if before is not None:
            await asyncio.wait([before])
        await asyncio.sleep(max(0.0, self._rested - time.monotonic()))
        self._running, self._next = self._next, None
        started = time.monotonic()
        try:
            return await asyncio.to_thread(self._render)
        finally:
            ended = time.monotonic()
            self._rested = ended + self.REST * (ended - started)


def documents_of(request: Request) -> DocumentCache:
    """The documents of the app that `request` came to."""
    documents: DocumentCache = request.app.state.documents
    return documents
