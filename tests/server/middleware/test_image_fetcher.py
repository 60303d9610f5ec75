"""Download by URL: the bytes, or a fault that names the image; never from a private address, whatever DNS answers."""

import asyncio
import contextlib
import io
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import ImageTooLarge, UrlFailed, UrlRefused
from server.middleware import image_fetcher
from server.middleware.image_fetcher import ImageFetcher, resolve_host
from server.registry.daemon_thread import in_daemon_thread
from server.request_context import RequestContext
from server.settings import Settings
from server.telemetry.logs import configure
from tests.server.web import HOST, PUBLIC, REFUSING, RESETTING, Web, answer

IMAGE = "Content-Type: image/png"
SOON = 20


@pytest.fixture(scope="module")
def shared():
    with Web() as web:
        yield web


@pytest.fixture
def web(shared):
    shared.pages, shared.names = {"/a.png": answer(b"picture", IMAGE)}, {HOST: [PUBLIC]}
    for log in (shared.asked, shared.connected, shared.resolved):
        log.clear()
    return shared


def url(path="/a.png", host=HOST):
    return f"https://{host}{path}"


def chunked(*chunks):
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{IMAGE}\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def moved(place, status="302 Found"):
    return answer(b"", f"Location: {place}", status=status)


def test_image_is_fetched_from_the_address_its_name_had(web):
    assert web.fetch(url()) == [b"picture"]
    assert web.asked == [(HOST, "/a.png")]
    assert web.connected == [PUBLIC]


def test_name_is_resolved_once_so_that_it_cannot_change_its_answer(web):
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    web.names[HOST] = lambda: next(answers)
    assert web.fetch(url()) == [b"picture"]
    assert web.connected == [PUBLIC]
    assert web.resolved == [HOST]


def test_several_images_come_in_their_order(web):
    web.pages["/b.png"] = lambda out: (time.sleep(0.1), out.write(answer(b"second", IMAGE)))
    assert web.fetch(url("/b.png"), url()) == [b"second", b"picture"]


@pytest.mark.parametrize(
    "page",
    [
        chunked(b"pic", b"ture"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b"picture", IMAGE),
        f"HTTP/1.1 200 OK\r\n{IMAGE}\r\n\r\npicture".encode(),
        answer(b"picture", "Content-Type: IMAGE/JPEG; x=y"),
        answer(b"picture", "Content-Type: application/octet-stream"),
        answer(b"picture"),
    ],
    ids=["chunked", "early hints", "until closed", "parameters", "untyped upload", "no type"],
)
def test_every_way_of_answering_is_read(web, page):
    web.pages["/a.png"] = page
    assert web.fetch(url()) == [b"picture"]


def test_path_and_query_are_sent_as_they_are(web):
    web.pages["/a%20b.png?x=1&y=%C3%A9"] = answer(b"picture", IMAGE)
    assert web.fetch(url("/a%20b.png?x=1&y=é#part")) == [b"picture"]


def test_name_in_letters_beyond_ascii_is_resolved_as_the_web_writes_it(web):
    web.names["xn--bcher-kva.example"] = [PUBLIC]
    assert web.fetch(url(host="bücher.example")) == [b"picture"]


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "303 See Other", "307 T", "308 P"])
@pytest.mark.parametrize("place", ["/a.png", "a.png", "//other.example/a.png", "https://other.example:443/a.png"])
def test_redirect_is_followed(web, status, place):
    web.names["other.example"] = [PUBLIC]
    web.pages["/old"] = moved(place, status)
    assert web.fetch(url("/old")) == [b"picture"]


def test_endless_redirect_is_given_up(web, monkeypatch):
    monkeypatch.setattr(image_fetcher, "MAX_REDIRECTS", 2)
    web.pages["/loop"] = moved("/loop")
    with pytest.raises(UrlFailed, match="image 1 of 1: its URL redirects more than 2 times"):
        web.fetch(url("/loop"))
    assert len(web.asked) == 3


PRIVATE = ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "fd00::1"]


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("others", [[], [PUBLIC]])
def test_name_of_a_private_address_is_refused_before_connecting(web, address, others):
    web.names |= {HOST: [*others, address], "other.example": [PUBLIC]}
    with pytest.raises(UrlRefused, match="image 2 of 2: its URL does not lead to a public address") as refusal:
        web.fetch(url(host="other.example"), url())
    assert address not in str(refusal.value)
    assert address not in web.connected


@pytest.mark.parametrize("address", PRIVATE)
def test_redirect_to_a_private_address_is_refused(web, address):
    web.names["inside.example"] = [address]
    web.pages["/old"] = moved("https://inside.example/a.png")
    with pytest.raises(UrlRefused, match="does not lead to a public address"):
        web.fetch(url("/old"))
    assert web.connected == [PUBLIC]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("http://pictures.example/a.png", "is not https"),
        ("file:///etc/passwd", "is not https"),
        ("gopher://pictures.example/", "is not https"),
        ("/a.png", "is not https"),
        ("https:///a.png", "must name a host"),
        ("https://user:word@pictures.example/a.png", "no user or password"),
        ("https://@pictures.example/a.png", "no user or password"),
        ("https://pictures.example:8443/a.png", "names a port, and only 443"),
        ("https://pictures.example:x/a.png", "cannot be read"),
        ("https://[::1/a.png", "cannot be read"),
        ("https://" + "a" * 64 + ".example/", "cannot be read"),
        ("https://[/", "cannot be read"),
        ("https://]/", "cannot be read"),
        ("https://a..example/", "cannot be read"),
        ("https://pictures.example:99999999/", "cannot be read"),
        ("https://pictures.example/\ud800", "cannot be read"),
        ("https://pictures\u2100.example/", "cannot be read"),
    ],
)
def test_url_that_is_not_fetched_says_why(web, place, reason):
    with pytest.raises(UrlRefused, match=reason):
        web.fetch(place)
    assert web.connected == []


@pytest.mark.parametrize(
    "place",
    [
        *("http://pictures.example/a.png", "https://pictures.example:22/", "file:///etc/passwd", "//[/", "https://[/"),
        *("https://[", "//]", "https://a:b:c/", "https://[::1", "//pictures.example:x/", "https://a..example/"),
    ],
)
def test_redirect_is_held_to_the_same_rules(web, place):
    web.pages["/old"] = moved(place)
    with pytest.raises(UrlRefused):
        web.fetch(url("/old"))


@given(st.text(alphabet="/[]:@.%?#ahtps\\\x00\x7f é", max_size=12), st.sampled_from(["", "https://", "//", "https:"]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_redirect_names_is_followed_or_a_fault(web, place, start):
    sent = f"{start}{place}".encode("latin-1").replace(b"\r", b"").replace(b"\n", b"").replace(b"\x00", b"%00").strip()
    web.pages["/old"] = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + sent + b"\r\n\r\n"
    with contextlib.suppress(UrlRefused, UrlFailed):
        web.fetch(url("/old"))
    assert set(web.connected) == {PUBLIC}


NUMBERS = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0x7f.1", "[::ffff:7f00:1]", "[::]", "[::127.0.0.1]"]


@pytest.mark.parametrize(
    "host", [*NUMBERS, "127.0.0.1.", "LOCALHOST", "ⓛocalhost", "１２７.0.0.1", "127。0。0。1", "a\x00b"]
)
@pytest.mark.parametrize("redirected", [False, True])
def test_no_way_of_writing_an_inner_address_is_connected_to(web, host, redirected):
    async def resolve(name):  # the system's own resolver, which reads such numbers
        return [PUBLIC] if name == HOST else await resolve_host(name)

    web.pages["/old"] = (
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + f"https://{host}/".encode() + b"\r\n\r\n"
    )
    fetcher = web.fetcher()
    fetcher._resolve = resolve
    with pytest.raises((UrlRefused, UrlFailed)):
        asyncio.run(fetcher.fetch([url("/old") if redirected else f"https://{host}/"], ["the image"], RequestContext()))
    assert web.connected == [PUBLIC] * redirected


@pytest.mark.parametrize("literal", ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]"])
def test_private_address_as_a_host_is_refused(web, literal):
    web.names[literal.strip("[]")] = [literal.strip("[]")]
    with pytest.raises(UrlRefused):
        web.fetch(url(host=literal))


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (answer(b"<html>", "Content-Type: text/html"), "content type of its URL is not an image's"),
        (answer(b"x", IMAGE, "Content-Encoding: gzip"), "answers with a compressed body"),
        (answer(status="404 Not Found"), "answers with status 404"),
        (answer(status="302 Found"), "answers with status 302"),
        (answer(status="206 Partial"), "answers with status 206"),
        (answer(b"picture", IMAGE)[:-3], "broke off"),
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "does not speak HTTP/1.1"),
    ],
)  # fmt: skip
def test_answer_that_is_no_image_says_why(web, page, reason):
    web.pages["/a.png"] = page
    with pytest.raises(UrlFailed, match=f"image 1 of 1.*{reason}"):
        web.fetch(url())


@pytest.mark.parametrize("page", [answer(b"x" * 2000, IMAGE), chunked(*[b"x" * 100] * 20)], ids=["length", "chunked"])
def test_bytes_of_an_image_are_bounded(web, page):
    web.pages["/a.png"] = page
    with pytest.raises(ImageTooLarge, match="image 1 of 1 has more than 1500 bytes"):
        web.fetch(url(), url_max_bytes=1500)


def test_bytes_of_a_request_are_bounded(web):
    web.pages["/a.png"] = answer(b"x" * 1000, IMAGE)
    assert len(web.fetch(url(), url(), max_body_bytes=2000)) == 2
    with pytest.raises(ImageTooLarge, match="more than 1999 bytes together"):
        web.fetch(url(), url(), max_body_bytes=1999)


@pytest.mark.parametrize("piece", [b"HTTP/1.1 200 OK\r\nX: ", answer(b"x" * 90_000, IMAGE)[:100]], ids=["head", "body"])
def test_time_is_bounded_however_slowly_bytes_drip(web, piece):
    def drip(out):
        out.write(piece)
        for _ in range(1000):
            out.write(b"x")
            out.flush()
            time.sleep(0.02)

    web.pages["/a.png"] = drip
    started = time.monotonic()
    with pytest.raises(UrlFailed, match=r"did not arrive from its URL within 0.3 seconds"):
        web.fetch(url(), url_timeout_s=0.3)
    assert time.monotonic() - started < 5


def hostile(piece, head=b""):
    """Sends `piece` without end."""

    def send(out):
        out.write(head)
        while True:
            out.write(piece * (65536 // len(piece)))

    return send


HOSTILE = {
    "informational answers": hostile(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": hostile(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n"),
    "one byte a chunk": hostile(
        b"1\r\nx\r\n", f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{IMAGE}\r\n\r\n".encode()
    ),
    "chunk extensions": hostile(b"1;" + b"e" * 5000 + b"\r\nx\r\n", chunked()[:-5]),
}


@pytest.mark.parametrize("page", HOSTILE.values(), ids=HOSTILE.keys())
def test_answer_without_end_costs_little_and_holds_up_nobody(web, page):
    web.pages["/a.png"] = page
    gaps = []

    async def tick():
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.002)
            gaps.append(time.monotonic() - before)

    async def scene():
        fetcher = web.fetcher(url_max_bytes=10_000_000, max_body_bytes=100_000_000)
        ticking = asyncio.ensure_future(tick())
        asked = [fetcher.fetch([url()], ["the image"], RequestContext(client=f"c{number}")) for number in range(8)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        ticking.cancel()
        assert {type(outcome) for outcome in outcomes} <= {UrlFailed, ImageTooLarge}
        assert not any("within" in str(outcome) for outcome in outcomes), "an end long before the time is over"

    asyncio.run(scene())
    assert max(gaps) < 2  # other tests run beside


def test_dead_names_of_one_client_leave_lookups_for_others(web):
    dead = threading.Event()

    async def resolve(host):
        if host.startswith("dead"):
            await in_daemon_thread(lambda: dead.wait(SOON), name="lookup")
            raise OSError
        return [PUBLIC]

    async def scene():
        fetcher = web.fetcher(url_timeout_s=0.05)
        fetcher._resolve = resolve
        for _ in range(5):  # each is given up long before its lookup ends
            urls = [url(host=f"dead{number}.example") for number in range(16)]
            with pytest.raises(UrlFailed):
                await fetcher.fetch(urls, urls, RequestContext(client="198.51.100.1"))
        assert fetcher._lookups._free >= image_fetcher.MAX_LOOKUPS // 2
        fetcher._settings = Settings(url_timeout_s=SOON)
        assert await fetcher.fetch([url()], ["the image"], RequestContext(client="203.0.113.1")) == [b"picture"]
        dead.set()
        while fetcher._lookups._free < image_fetcher.MAX_LOOKUPS:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scene(), SOON))


def test_connections_are_bounded(web, monkeypatch):
    monkeypatch.setattr(image_fetcher, "MAX_CONNECTIONS", 2)
    open_now, most, lock = 0, 0, threading.Lock()

    def slowly(out):
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        time.sleep(0.05)
        with lock:
            open_now -= 1
        out.write(answer(b"picture", IMAGE))

    web.pages["/a.png"] = slowly
    assert web.fetch(*[url()] * 8) == [b"picture"] * 8
    assert most == 2


def test_unknown_host_is_a_fault(web):
    with pytest.raises(UrlFailed, match="the host of its URL is not known"):
        web.fetch(url(host="nowhere.example"))


def test_log_at_its_lowest_level_names_no_host_that_is_fetched_from(web, monkeypatch):
    with io.StringIO() as log:
        monkeypatch.setattr("sys.stderr", log)
        configure(Settings(log_level="debug"))
        web.fetch(url())
        assert HOST not in log.getvalue()


def test_host_that_the_resolver_cannot_encode_is_a_fault(web):
    def fails():
        raise UnicodeError("label empty or too long")

    web.names[HOST] = fails
    with pytest.raises(UrlFailed, match="the host of its URL is not known"):
        web.fetch(url())


def test_next_address_is_tried_where_one_refuses_or_resets(web):
    web.names[HOST] = [REFUSING, RESETTING, PUBLIC]
    assert web.fetch(url()) == [b"picture"]
    web.names[HOST] = [REFUSING]
    with pytest.raises(UrlFailed, match="cannot be reached"):
        web.fetch(url())


@pytest.mark.parametrize("trusting", [True, False])
def test_certificate_must_be_trusted_and_the_hosts_own(web, trusting):
    host = "stranger.example" if trusting else HOST
    web.names[host] = [PUBLIC]
    with pytest.raises(UrlFailed, match="the certificate of its URL's host is not trusted"):
        web.fetch(url(host=host), trusting=trusting)
    assert web.asked == []


def test_real_connections_resolve_nothing_but_the_name(monkeypatch):
    # The system's own resolver and connection, as far as that goes without a network.
    fetcher = ImageFetcher(Settings())
    with pytest.raises(UrlRefused, match="public address"):
        asyncio.run(fetcher.fetch(["https://localhost/a.png"], ["the image"], RequestContext()))
