"""A small web of our own: a TLS server with its own authority, names that resolve to what a test says, no network."""

import asyncio
import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme
from httpcore import AnyIOBackend, AsyncNetworkStream, ConnectError

from server.middleware.image_fetcher import ImageFetcher
from server.request_context import RequestContext
from server.settings import Settings

PUBLIC, REFUSING, RESETTING = "93.184.216.34", "203.0.114.1", "203.0.114.2"
HOST = "pictures.example"


def answer(body=b"", *headers, status="200 OK"):
    """A whole HTTP answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class _Resetting(AsyncNetworkStream):
    """A connection that is reset in the TLS handshake."""

    async def start_tls(self, *_, **__):
        raise ConnectError("reset by peer")

    async def aclose(self):
        pass


class _Loopback(AnyIOBackend):
    """Connects every address of the internet with the web's own server, but those that refuse or reset."""

    def __init__(self, web):
        self._web = web

    async def connect_tcp(self, host, port, *_, **__):
        assert port == 443
        self._web.connected.append(host)
        if host == REFUSING:
            raise ConnectError
        if host == RESETTING:
            return _Resetting()
        return await super().connect_tcp("127.0.0.1", self._web.port)


class Web:
    """`pages`: path -> raw answer, or a function that writes it; `names`: host -> addresses; the rest logs."""

    def __init__(self):
        authority = trustme.CA()
        self.pages, self.names = {}, {HOST: [PUBLIC]}
        self.asked, self.connected, self.resolved = [], [], []
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST, "other.example", "xn--bcher-kva.example").configure_cert(identity)
        self._server.socket = identity.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetcher(self, *, trusting=True, **bounds):
        settings = Settings(**{"url_max_bytes": 100_000, "max_body_bytes": 150_000, "url_timeout_s": 5} | bounds)
        context = self.trust if trusting else ssl.create_default_context()
        return ImageFetcher(settings, resolve=self._resolve, backend=_Loopback(self), context=context)

    def fetch(self, *urls, **bounds):
        names = [f"image {place} of {len(urls)}" for place in range(1, len(urls) + 1)]
        return asyncio.run(self.fetcher(**bounds).fetch(urls, names, RequestContext()))

    async def _resolve(self, host):
        self.resolved.append(host)
        if host not in self.names:
            raise OSError("no such host")
        addresses = self.names[host]
        return addresses() if callable(addresses) else addresses

    def _handler(web):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                web.asked.append((self.headers["Host"], self.path))
                page = web.pages.get(self.path, answer(status="404 Not Found"))
                with contextlib.suppress(OSError):
                    page(self.wfile) if callable(page) else self.wfile.write(page)
                self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler
