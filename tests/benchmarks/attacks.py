"""Attacks: while one client sends what costs most, `/livez` answers, another client is served, and memory is bounded.

    python -m tests.benchmarks.attacks --seconds 5 [NAME ...]

Each attack runs in a process of its own, from one address, against a server with the bundled models and a budget of
1 GiB. Meanwhile `/livez` is asked every few milliseconds over a connection of its own, and a client at another address
classifies a picture. First the same is measured beside a process that only takes a processor: what the machine does to
/livez by itself. The exit status is 1 if /livez waited longer than 100 ms and three times that, the process grew past
1 GiB, or the other client got something else than its answer.

Another attack is a function in `ATTACKS` that takes the server's port and sends until it is ended.
"""

import argparse
import contextlib
import gzip
import itertools
import json
import multiprocessing
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.benchmarks.live_server import ROOT, LiveServer, serving
from tests.benchmarks.traffic import FORM, JSON, form

LIMIT_BYTES = 2**30
LIVEZ_WITHIN_S = 0.1
NOISE = 3
FLAGS = ("--log-level", "error", "--memory-limit-bytes", str(LIMIT_BYTES), "--threads", "1", "--decode-threads", "2")
MIB = 2**20
SCENE = (ROOT / "server/examples/scene.jpg").read_bytes()
OTHER_ADDRESS = "127.0.0.2"
DETECT, SIMILARITY = "/detect", "/similarity"
INFER = "/v2/models/grounding-dino-mini/infer"


def head(path: str, content_type: str, length: int | None, *more: str) -> bytes:
    """A request's head; without `length` the body comes in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Type: {content_type}", framing, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def post_again_and_again(
    port: int, requests: Sequence[tuple[str, str, bytes]], *headers: str, connections: int = 2
) -> None:
    """Send whole requests (path, content type, body) over several connections, and read the answers."""

    def one() -> None:
        for path, content_type, body in itertools.cycle(requests):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(head(path, content_type, len(body), "Connection: close", *headers) + body)
                while client.recv(65536):
                    pass

    in_threads(one, connections)


def in_threads(function: Callable[[], None], count: int) -> None:
    """Run `function` in several threads until all return."""
    threads = [threading.Thread(target=function, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def processor(port: int) -> None:
    """Take one processor, as any attacker on this machine does."""
    while True:
        sum(range(10_000))


def structural_json(port: int) -> None:
    """Bodies of 32 MB: one key again and again, numbers, empty lists, nesting, quotes."""
    size = 32_000_000
    parts = (b'"a":0,', b"1,", b"[],", b'{"a":', b'"",', b'\\"')
    bodies = [b'{"labels":[' + part * (size // len(part)) + b"0]}" for part in parts]
    post_again_and_again(port, [(DETECT, JSON, body) for body in bodies])


def empty_lists(port: int) -> None:
    """Bodies of 1 to 4 MiB of empty lists, on three endpoints."""
    bodies = [b'{"labels":[' + b"[]," * (mib * MIB // 3) + b"[]]}" for mib in (1, 2, 4)]
    post_again_and_again(port, [(path, JSON, body) for body in bodies for path in (DETECT, SIMILARITY, INFER)])


def large_images(port: int) -> None:
    """JSON with 24 MB of base64 that is no picture, as one line, in lines, and as PHP escapes it."""
    digits = b"/9j/" * (8 * MIB - 1000)
    lines = b"\\n".join([b"A" * 76] * (32 * MIB // 80))
    bodies = [
        b'{"labels":["dog"],"image":"%s"}' % text for text in (digits, lines, digits[: 20 * MIB].replace(b"/", b"\\/"))
    ]
    post_again_and_again(port, [(DETECT, JSON, body[:33_000_000]) for body in bodies])


def unknown_names(port: int) -> None:
    """/v2 requests of 20 MiB of inputs and parameters that there are not."""
    parameters = b",".join(b'"p%d":1' % number for number in range(2 * MIB))
    tensors = b",".join([b'{"name":"%d","shape":[1],"datatype":"BYTES","data":["a"]}' % n for n in range(300_000)])
    bodies = [b'{"inputs":[],"parameters":{%s}}' % parameters, b'{"inputs":[%s]}' % tensors]
    post_again_and_again(port, [(INFER, JSON, body) for body in bodies])


def pictures_of_a_pixel(port: int) -> None:
    """A tensor of 500,000 pictures of one pixel, and millions of empty texts."""
    bodies = []
    for name, datatype, shape, data in (
        ("image", "UINT8", [500_000, 1, 1, 3], bytes(1_500_000)),
        ("labels", "BYTES", [7_000_000], bytes(28_000_000)),
    ):
        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        bodies.append((json.dumps({"inputs": [tensor]}).encode(), data))
    assert all(len(text) < 200 for text, _ in bodies), "the header below has their length"
    requests = [(INFER, "application/octet-stream", text.ljust(200) + data) for text, data in bodies]
    post_again_and_again(port, requests, "Inference-Header-Content-Length: 200")


def slow_codecs(port: int) -> None:
    """Forms whose charset is one that takes quadratic time."""
    body = form([("image", SCENE), *[("labels", "a" * 60_000)] * 3])
    post_again_and_again(port, [(DETECT, f"{FORM}; charset=punycode", body)])


def many_parts(port: int) -> None:
    """Forms of hundreds of thousands of parts, of headers, and of what looks like a boundary."""
    boundary = FORM.partition("boundary=")[2].encode()
    part = b'--%s\r\nContent-Disposition: form-data; name="labels"\r\n\r\n\r\n' % boundary
    likely = form([("image", b"\r\n--" + boundary[:-1])], end=False)
    bodies = [part * 300_000, b"--%s\r\n" % boundary + b"a: b\r\n" * MIB, likely * 100_000]
    post_again_and_again(port, [(DETECT, FORM, body) for body in bodies])


def bombs(port: int) -> None:
    """Bodies that unpack to a thousand times their size."""
    packed = gzip.compress(bytes(200 * MIB))
    post_again_and_again(port, [(DETECT, JSON, packed), (INFER, JSON, packed)], "Content-Encoding: gzip")


def one_byte_chunks(port: int) -> None:
    """Eight bodies in chunks of one byte, as fast as they go."""

    def one() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(head(DETECT, JSON, None))
                while True:
                    client.sendall(b"1\r\na\r\n" * 10_000)

    in_threads(one, 8)


def pipelined(port: int) -> None:
    """Thousands of requests on each of eight connections before the first answer is read."""

    def one() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.settimeout(0.5)
                while True:
                    client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 5_000)

    in_threads(one, 8)


def slow_bodies(port: int) -> None:
    """More bodies than there are places, each of which stays all but whole."""
    body = form([("image", SCENE), ("labels", "dog")])

    def one() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(head(DETECT, FORM, len(body)) + body[:-1000])
                for at in range(len(body) - 1000, len(body)):
                    time.sleep(0.5)
                    client.sendall(body[at : at + 1])

    in_threads(one, 150)


def unread_answers(port: int) -> None:
    """Clients that ask for large answers and read none."""
    texts = [("texts", f"a {number}") for number in range(100)]
    body = form([("image", SCENE), ("embeddings", "true"), *texts])

    def one() -> None:
        while True:
            with contextlib.suppress(OSError), socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", port))
                client.sendall(head(SIMILARITY, FORM, len(body)) + body)
                time.sleep(1)
                while client.send(b"\r\n"):
                    time.sleep(1)

    in_threads(one, 40)


ATTACKS = {
    attack.__name__: attack
    for attack in (
        *(structural_json, empty_lists, large_images, unknown_names, pictures_of_a_pixel, slow_codecs, many_parts),
        *(bombs, one_byte_chunks, pipelined, slow_bodies, unread_answers),
    )
}


@dataclass
class Watched:
    """What was seen while an attack ran; seconds and bytes."""

    name: str
    livez: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    statuses: Counter[int | str] = field(default_factory=Counter)
    peak_bytes: int = 0

    def faults(self, livez_within_s: float) -> list[str]:
        """Sentences about the bounds that were broken."""
        wrong = {
            f"/livez took {max(self.livez):.3f} s, over {livez_within_s:.3f} s": max(self.livez) > livez_within_s,
            f"the process took {self.peak_bytes // MIB} MiB": self.peak_bytes > LIMIT_BYTES,
            f"the other client got {dict(self.statuses)}": set(self.statuses) != {200},
        }
        return [f"{self.name}: {fault}" for fault, broken in wrong.items() if broken]


def watch(server: LiveServer, attack: Callable[[int], None], *, seconds: float) -> Watched:
    """Run `attack` for some seconds and watch the server meanwhile."""
    watched, over = Watched(attack.__name__), threading.Event()
    forget_peak(server)
    attacker = multiprocessing.get_context("spawn").Process(target=attack, args=(server.port,), daemon=True)
    watchers = [threading.Thread(target=each, args=(server.port, watched, over)) for each in (ask_livez, classify)]
    attacker.start()
    try:
        time.sleep(1)  # it makes its bodies
        for watcher in watchers:
            watcher.start()
        time.sleep(seconds)
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
        attacker.kill()
        attacker.join()
    watched.peak_bytes = peak_bytes(server)
    return watched


def ask_livez(port: int, watched: Watched, over: threading.Event) -> None:
    """Ask for /livez every few milliseconds."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        while not over.is_set():
            started = time.monotonic()
            client.request("GET", "/livez")
            client.getresponse().read()
            watched.livez.append(time.monotonic() - started)
            time.sleep(0.005)


def classify(port: int, watched: Watched, over: threading.Event) -> None:
    """Classify a picture again and again, as a client at another address."""
    body = form([("image", SCENE), ("labels", "dog")])
    while not over.is_set():
        started = time.monotonic()
        source = (OTHER_ADDRESS, 0)
        with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=60, source_address=source)) as client:
            try:
                client.request("POST", "/classify", body, {"Content-Type": FORM})
                watched.statuses[client.getresponse().status] += 1
            except (OSError, HTTPException) as error:
                watched.statuses[type(error).__name__] += 1
        watched.others.append(time.monotonic() - started)
        time.sleep(0.1)


def forget_peak(server: LiveServer) -> None:
    """Start the peak of the server's memory anew."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="utf-8")


def peak_bytes(server: LiveServer) -> int:
    """Most resident memory of the server since then."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def run_attacks(
    server: LiveServer, names: Sequence[str], *, seconds: float, livez_within_s: float = LIVEZ_WITHIN_S
) -> Iterator[tuple[Watched, list[str]]]:
    """What was seen in each attack, after the processor alone, and the bounds that it broke."""
    quiet = watch(server, processor, seconds=seconds)
    bound = max(livez_within_s, NOISE * max(quiet.livez))
    yield quiet, []
    for name in names:
        watched = watch(server, ATTACKS[name], seconds=seconds)
        yield watched, watched.faults(bound)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"attacks (default: all): {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=5, help="duration of each attack (default: 5)")
    args = parser.parse_args(argv)
    wrong: list[str] = []
    print(f"{'attack':<20} {'worst /livez':>12} {'median':>8} {'peak MiB':>9} {'after':>6}  other client")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        for seen, faults in run_attacks(server, args.names or list(ATTACKS), seconds=args.seconds):
            median = sorted(seen.livez)[len(seen.livez) // 2]
            after = server.resident_bytes() // MIB
            others = f"{dict(seen.statuses)}, slowest {max(seen.others):.2f} s"
            peak = seen.peak_bytes // MIB
            print(
                f"{seen.name:<20} {max(seen.livez):>10.3f} s {median:>8.4f} {peak:>9} {after:>6}  {others}", flush=True
            )
            wrong += faults
        errors = server.log.read_text(encoding="utf-8")
    wrong += [f"the log has errors: {errors[:300]}"] if errors else []
    print("\n".join(f"WRONG: {fault}" for fault in wrong) or "nothing wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
