"""A small web of our own: a TLS server with its own authority, names that resolve to what a test says, no network."""

import asyncio
import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme

from server.middleware.image_fetcher import Fetcher, FetchLimits
from server.request_context import RequestContext

PUBLIC = "93.184.216.34"
HOST = "pictures.example"


def answer(body=b"", *headers, status="200 OK"):
    """A whole HTTP answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


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
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetcher(self, *, trusting=True, **limits):
        bounds = {"max_bytes": 100_000, "max_total_bytes": 150_000, "timeout_s": 5, "max_redirects": 2}
        bounds |= {"connections": 4} | limits
        context = self.trust if trusting else ssl.create_default_context()
        return Fetcher(FetchLimits(**bounds), resolve=self._resolve, connect=self._connect, context=context)

    def fetch(self, *urls, **limits):
        names = [f"image {place} of {len(urls)}" for place in range(1, len(urls) + 1)]
        return asyncio.run(self.fetcher(**limits).fetch(urls, names, RequestContext()))

    async def _resolve(self, host):
        self.resolved.append(host)
        if host not in self.names:
            raise OSError("no such host")
        addresses = self.names[host]
        return addresses() if callable(addresses) else addresses

    async def _connect(self, address, context, host):
        self.connected.append(address)
        if address == "203.0.114.1":
            raise ConnectionRefusedError
        port = self._server.server_address[1]
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)

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
