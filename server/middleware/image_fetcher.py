"""Download of images by URL: https only, from public addresses only, bounded in bytes, time and redirects.

A host is resolved once and the connection made to that very address, so that it cannot show a public address to the
check and a private one to the connection (DNS rebinding). Each redirect passes all checks again. Answers are read in a
thread of their own: their servers choose into how many pieces they cut them.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

from httpcore import (
    URL,
    AnyIOBackend,
    AsyncHTTPConnection,
    AsyncNetworkBackend,
    ConnectError,
    NetworkError,
    ProtocolError,
    Response,
)

from server.errors import IMAGE_FAULTS, Fault, ImageTooLarge, UrlFailed, UrlRefused
from server.inference.fair_queue import FairSemaphore
from server.inference.pipeline import Pipeline
from server.inference.request_images import check_image_count, image_names
from server.middleware.loop_thread import LoopThread
from server.middleware.pinned_network import Meter, PinnedNetwork
from server.middleware.ssrf import is_public
from server.registry.daemon_thread import in_daemon_thread
from server.request_context import RequestContext
from server.requests import ClassifyRequest, DetectRequest, EmbedRequest, SimilarityRequest
from server.settings import Settings
from server.telemetry.stage_timer import FETCH

PORT = 443
MAX_REDIRECTS = 3
MAX_CONNECTIONS = 32  # for all clients, who take turns, and of whom none takes all
MAX_LOOKUPS = 32  # of host names; one that finds no answer holds its place for as long as the resolver tries
_FREE_PIECES, _MIN_PIECE_BYTES = 1000, 512  # after so many pieces of a body, the least that they may have on average
_MAX_ADDRESSES = 3  # of a host, tried one after the other
_REDIRECTS = (301, 302, 303, 307, 308)
# Content types of files uploaded to an object store without one; the decoder looks at the bytes anyway.
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_SAFE = "/%:@!$&'()*+,;=-._~?[]"  # characters of a path and a query that are sent as they are
_HEADERS = [("User-Agent", "openset"), ("Accept", "image/*"), ("Accept-Encoding", "identity"), ("Connection", "close")]

RequestModel = TypeVar("RequestModel", DetectRequest, ClassifyRequest, SimilarityRequest, EmbedRequest)
Resolve = Callable[[str], Awaitable[Sequence[str]]]


def check_fetching(fetcher: "ImageFetcher | None") -> "ImageFetcher":
    """The fetcher; UrlRefused where the server has none."""
    if fetcher is None:
        raise UrlRefused("this server does not download images (its setting `url_images` is off): send the image")
    return fetcher


async def with_images(
    body: RequestModel, fetcher: "ImageFetcher | None", pipeline: Pipeline, context: RequestContext
) -> RequestModel:
    """A request with the images of its URLs in place of these."""
    fetcher = check_fetching(fetcher)
    check_image_count(len(body.urls), pipeline.settings)
    names = context.image_names or image_names(len(body.urls))
    try:
        with context.timer.timed(FETCH, pipeline.metrics.fetch_duration):
            images = await fetcher.fetch(body.urls, names, context, skip=body.on_error == "skip")
    except asyncio.CancelledError:
        pipeline.metrics.cancelled.labels("fetch").inc()
        raise
    fetched = body.model_copy(update={"images": tuple(images), "image_url": None, "image_urls": ()})
    pipeline.metrics.fetched_bytes.inc(fetched.picture_bytes)
    return fetched


async def resolve_host(host: str) -> Sequence[str]:
    """The addresses of `host` from the system's resolver, in its order."""
    # A thread for each: nothing can end a lookup, and those of dead names would fill a pool of threads.
    infos = await in_daemon_thread(lambda: socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM), name="lookup")
    return [str(address[0]) for *_, address in infos]


class ImageFetcher:
    """Downloads images; a `Fault` names the image that failed, and reveals no address."""

    def __init__(
        self,
        settings: Settings,
        *,
        resolve: Resolve = resolve_host,
        backend: AsyncNetworkBackend | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings, self._resolve, self._backend = settings, resolve, backend or AnyIOBackend()
        self._context = context or ssl.create_default_context()
        self._connections = FairSemaphore(MAX_CONNECTIONS, leave_room=True)
        self._lookups = FairSemaphore(MAX_LOOKUPS, leave_room=True)
        self._thread = LoopThread("downloads")

    def close(self) -> None:
        """End the thread of the downloads."""
        self._thread.close()

    async def fetch(
        self, urls: Sequence[str | Fault], names: Sequence[str], request: RequestContext, *, skip: bool = False
    ) -> list[bytes | Fault]:
        """The bytes behind each of `urls`; `names` are those of the images in errors.

        With `skip`, in place of an image that cannot be fetched there is its fault.
        """
        return await self._thread.run(self._fetch_all(urls, names, request, skip))

    async def _fetch_all(
        self, urls: Sequence[str | Fault], names: Sequence[str], request: RequestContext, skip: bool
    ) -> list[bytes | Fault]:
        budget = _Budget(self._settings.max_body_bytes)

        async def one(index: int, url: str | Fault, name: str) -> bytes | Fault:
            try:
                if isinstance(url, Fault):
                    raise url
                return await self._fetch_in_time(url, name, budget, request)
            except IMAGE_FAULTS as fault:
                fault.image_index = index
                if not skip:
                    raise
                return fault

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(one(index, *image)) for index, image in enumerate(zip(urls, names, strict=True))
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _fetch_in_time(self, url: str, name: str, budget: "_Budget", request: RequestContext) -> bytes:
        timeout_s = self._settings.url_timeout_s
        async with self._connections.slot(client=request.client, priority=request.priority):
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._follow(url, name, budget, request)
            except TimeoutError:
                raise UrlFailed(f"{name} did not arrive from its URL within {timeout_s:g} seconds") from None

    async def _follow(self, url: str, name: str, budget: "_Budget", request: RequestContext) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            target = _target(url, name)
            for address in await self._addresses(target.host.decode(), name, request):
                with contextlib.suppress(ConnectError):  # its connection or its TLS handshake failed: try the next one
                    answer = await self._request(target, address, name, budget)
                    break
            else:
                raise UrlFailed(f"{name}: the host of its URL cannot be reached")
            if isinstance(answer, bytes):
                return answer
            try:
                url = urljoin(url, answer)
            except ValueError:
                raise UrlRefused(f"{name}: its URL redirects to one that cannot be read") from None
        raise UrlFailed(f"{name}: its URL redirects more than {MAX_REDIRECTS} times")

    async def _addresses(self, host: str, name: str, request: RequestContext) -> list[str]:
        """Addresses of `host` to try, once all that it has are known to be public."""
        addresses: list[str] = []
        with contextlib.suppress(OSError, ValueError):  # ValueError: a name that the resolver cannot encode
            addresses = list(dict.fromkeys(await self._look_up(host, request)))
        if not addresses:
            raise UrlFailed(f"{name}: the host of its URL is not known")
        if not all(map(is_public, addresses)):
            raise UrlRefused(f"{name}: its URL does not lead to a public address")
        return addresses[:_MAX_ADDRESSES]

    async def _look_up(self, host: str, request: RequestContext) -> Sequence[str]:
        """The addresses of `host`; the place is held until the resolver is done, also where nobody waits any more."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._lookups.slot(client=request.client, priority=request.priority))
            place = stack.pop_all()

        async def resolve() -> Sequence[str]:
            async with place:
                return await self._resolve(host)

        lookup = asyncio.ensure_future(resolve())
        lookup.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(lookup)

    async def _request(self, target: URL, address: str, name: str, budget: "_Budget") -> bytes | str:
        """The image, or the address that the answer redirects to; ConnectError where `address` cannot be reached."""
        host = target.host.decode()
        headers = [("Host", f"[{host}]" if ":" in host else host), *_HEADERS]
        meter = Meter()
        network = PinnedNetwork(self._backend, address, meter)
        connection = AsyncHTTPConnection(target.origin, ssl_context=self._context, network_backend=network)
        try:
            async with connection, connection.stream("GET", target, headers=headers) as response:
                location = _header(response, b"location")
                if response.status in _REDIRECTS and location:
                    return location
                meter.allow_body(self._settings.url_max_bytes)
                return await self._read(response, name, budget)
        except ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise UrlFailed(f"{name}: the certificate of its URL's host is not trusted") from None
            raise
        except (ProtocolError, NetworkError):
            raise UrlFailed(f"{name}: the server of its URL broke off or does not speak HTTP/1.1") from None

    async def _read(self, response: Response, name: str, budget: "_Budget") -> bytes:
        if response.status != 200:
            raise UrlFailed(f"{name}: its URL answers with status {response.status}")
        content_type = _header(response, b"content-type").partition(";")[0].strip().lower()
        if not content_type.startswith("image/") and content_type not in _UNTYPED:
            raise UrlFailed(f"{name}: the content type of its URL is not an image's")
        if _header(response, b"content-encoding").lower() not in ("", "identity"):
            raise UrlFailed(f"{name}: its URL answers with a compressed body, which was not asked for")
        limit = self._settings.url_max_bytes
        too_large = ImageTooLarge(f"{name} has more than {limit} bytes, the limit for an image from a URL")
        length = _header(response, b"content-length")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        body, pieces = bytearray(), 0
        async for chunk in response.aiter_stream():
            body += chunk
            pieces += 1
            if pieces > _FREE_PIECES and len(body) < pieces * _MIN_PIECE_BYTES:
                raise UrlFailed(f"{name}: the server of its URL sends it in too many small pieces")
            budget.take(len(chunk), name)
            if len(body) > limit:
                raise too_large
        return bytes(body)


@dataclass
class _Budget:
    """Bytes of all images of a request."""

    limit: int
    taken: int = 0

    def take(self, count: int, name: str) -> None:
        self.taken += count
        if self.taken > self.limit:
            raise ImageTooLarge(f"{name} and the others have more than {self.limit} bytes together, the limit")


def _target(url: str, name: str) -> URL:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode().rstrip("."), parts.port
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_SAFE)
    except ValueError:  # UnicodeError is one
        raise UrlRefused(f"{name}: its URL cannot be read") from None
    if parts.scheme != "https":
        raise UrlRefused(f"{name}: its URL is not https, the only scheme allowed")
    if not host or parts.username is not None or parts.password is not None:
        raise UrlRefused(f"{name}: its URL must name a host, and no user or password")
    if port not in (None, PORT):
        raise UrlRefused(f"{name}: its URL names a port, and only {PORT} is allowed")
    return URL(scheme="https", host=host, port=PORT, target=path)


def _header(response: Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")
