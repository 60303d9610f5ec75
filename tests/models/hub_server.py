"""A server that speaks the Hugging Face hub's protocol, on loopback, with faults to order.

As the hub does it: the API lists a commit's files with their sizes and hashes; a large file's address redirects to
another host, which knows byte ranges; a small one's to a path of the same host.
"""

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Asked:
    """A request that came: `host` is "hub" or "cdn"."""

    host: str
    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self):
        return self.headers.get("range")


@dataclass
class Faults:
    """What goes wrong, how often; counted down."""

    cut_after: int | None = None  # bytes of a large file after which the connection breaks
    cuts: int = 0
    ends_at: int | None = None  # the byte of a large file behind which the connection always breaks
    damaged: int = 0  # answers of a large file with one bit turned
    ignored_ranges: int = 0
    surplus: int = 0  # bytes of a large file behind its announced end
    stall: bool = False  # large files begin and do not go on
    refusals: int = 0  # answers with `status` and `headers` instead
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Say nothing of clients that have gone: that is what the tests make them do."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class HubServer:
    """Serves `repositories`: {repository: {file name: bytes}}; large files are kept apart, with SHA-256.

    reached_at: this machine's address for others than its own processes, as for containers.
    """

    def __init__(self, repositories, *, commit=COMMIT, card=None, reached_at=None):
        self.repositories, self.commit, self.card = repositories, commit, card
        self._reached_at = reached_at
        self.revisions = {"main"}
        self.asked: list[Asked] = []
        self.faults = Faults()
        self._hashes: dict[int, tuple[str, bytes]] = {}
        self.lock = threading.Lock()
        address = (reached_at or "127.0.0.1", 0)
        self._servers = {host: _Server(address, self._handler(host)) for host in ("hub", "cdn")}
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers.values()
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def url(self):
        return self.address("hub")

    def address(self, host):
        # Two names, so that what is sent to one host only can be told from what is sent to both.
        name = self._reached_at or ("localhost" if host == "hub" else "127.0.0.1")
        return f"http://{name}:{self._servers[host].server_port}"

    def of(self, host, suffix=""):
        """The requests that came to a host, for paths that end so."""
        return [asked for asked in self.asked if asked.host == host and asked.path.endswith(suffix)]

    def times(self):
        """How often each file was asked for."""
        return Counter(asked.path.rpartition("/")[2] for asked in self.of("cdn"))

    def _handler(self, host):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                path = urlsplit(self.path).path
                headers = {name.lower(): value for name, value in self.headers.items()}
                hub.asked.append(Asked(host, self.command, path, headers))
                if host == "hub" and hub.take("refusals"):
                    self.answer(hub.faults.status, b"", hub.faults.headers)
                elif host == "hub":
                    hub.serve_hub(self, path)
                else:
                    hub.serve_large(self, path)

            def answer(self, status, body, headers=None):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def take(self, fault):
        """Whether this answer is to have the fault; counted down."""
        with self.lock:
            left = getattr(self.faults, fault)
            setattr(self.faults, fault, max(left - 1, 0))
            return left > 0

    def serve_hub(self, handler, path):
        for repository, files in self.repositories.items():
            if path in {f"/api/models/{repository}/revision/{revision}" for revision in self.revisions}:
                return handler.answer(200, json.dumps(self.described(repository, files)).encode())
            head = f"/{repository}/resolve/{self.commit}/"
            name = path.removeprefix(head).removeprefix("/api/resolve-cache" + head)
            if name not in files:
                continue
            told = {"X-Repo-Commit": self.commit}
            if is_large(name):
                location = f"{self.address('cdn')}/{repository}/{name}"
                etag, size = self.sha256(files[name]), len(files[name])
                told |= {"Location": location, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
                return handler.answer(302, b"", told)
            if path.startswith("/api/"):
                return handler.answer(200, files[name], told | {"ETag": f'"{git_hash(files[name])}"'})
            return handler.answer(307, b"", told | {"Location": "/api/resolve-cache" + path})
        return handler.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def described(self, repository, files):
        siblings = []
        for name, content in files.items():
            entry = {"rfilename": name, "size": len(content)}
            if is_large(name):
                entry["lfs"] = {"size": len(content), "sha256": self.sha256(content), "pointerSize": 134}
            else:
                entry["blobId"] = git_hash(content)
            siblings.append(entry)
        card = {"cardData": self.card} if self.card else {}
        return {"id": repository, "modelId": repository, "sha": self.commit, "siblings": siblings, "tags": [], **card}

    def sha256(self, content):
        # Of a gigabyte it takes seconds, which no client should have to wait for more than once.
        if id(content) not in self._hashes:
            self._hashes[id(content)] = (hashlib.sha256(content).hexdigest(), content)
        return self._hashes[id(content)][0]

    def serve_large(self, handler, path):
        repository, _, name = path.strip("/").rpartition("/")
        content = self.repositories[repository][name]
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not self.take("ignored_ranges") else 0
        body = content[start:] + bytes(self.faults.surplus)
        if self.take("damaged"):
            body = bytes([body[0] ^ 1]) + body[1:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        while self.faults.stall:
            time.sleep(0.05)
        if self.faults.cut_after is not None and self.take("cuts"):
            body = body[: self.faults.cut_after]
            handler.close_connection = True
        if self.faults.ends_at is not None:
            body = content[start : self.faults.ends_at]
            handler.close_connection = True
        handler.wfile.write(body)


def is_large(name):
    """Whether the hub keeps a file apart, as its LFS rules say of weights."""
    return name.endswith((".safetensors", ".bin", ".pth"))


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
