"""Download by URL: the bytes, or a fault that names the image; never from a private address, whatever DNS answers."""

import asyncio
import io
import threading
import time

import pytest

from server.errors import ImageTooLarge, UrlFailed, UrlRefused
from server.middleware import image_fetcher
from server.middleware.image_fetcher import ImageFetcher
from server.request_context import RequestContext
from server.settings import Settings
from server.telemetry.logs import configure
from tests.server.web import HOST, PUBLIC, REFUSING, RESETTING, Web, answer

IMAGE = "Content-Type: image/png"


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
    ],
)
def test_url_that_is_not_fetched_says_why(web, place, reason):
    with pytest.raises(UrlRefused, match=reason):
        web.fetch(place)
    assert web.connected == []


@pytest.mark.parametrize(
    "place", ["http://pictures.example/a.png", "https://pictures.example:22/", "file:///etc/passwd"]
)
def test_redirect_is_held_to_the_same_rules(web, place):
    web.pages["/old"] = moved(place)
    with pytest.raises(UrlRefused):
        web.fetch(url("/old"))


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
        for _ in range(100):
            out.write(b"x")
            out.flush()
            time.sleep(0.02)

    web.pages["/a.png"] = drip
    started = time.monotonic()
    with pytest.raises(UrlFailed, match=r"did not arrive from its URL within 0.3 seconds"):
        web.fetch(url(), url_timeout_s=0.3)
    assert time.monotonic() - started < 1.5


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
