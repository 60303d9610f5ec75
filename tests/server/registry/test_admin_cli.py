"""`openset bundles`: what it asks a server, and one sentence for whatever keeps it from its end."""

import http.server
import json
import threading

import pytest

from server.__main__ import main

BUNDLE = {"name": "b", "family": "clip", "version": "1", "path": "/bundles/b"}
CHANGE = {"load_s": 1.25, "drain_s": 0.5, "bundles": [BUNDLE]}


class PreparedServer(http.server.HTTPServer):
    """Gives the answer in `next`, and records requests in `asked`."""

    next: tuple[int, object]

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.asked, self.url = [], f"http://127.0.0.1:{self.server_port}"
        self.more: dict[str, str] = {}  # headers of the answer


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            listener.asked.append((self.command, self.path, self.headers["Authorization"], body and json.loads(body)))
            status, content = listener.next
            self.send_response(status)
            for name, value in listener.more.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_):
            pass

    with PreparedServer(Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,)).start()
        yield listener
        listener.shutdown()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENSET_API_KEY", "osk_env")


def bundles(server, *words):
    return main(["bundles", *words, "--url", server.url])


@pytest.mark.parametrize(
    ("words", "asked", "told"),
    [
        (["add", "b"], ("POST", "/admin/bundles", {"path": "b"}), "b 1 answers now, loaded in 1.2 s"),
        (["replace", "a b/c", "b"], ("PUT", "/admin/bundles/a%20b%2Fc", {"path": "b"}), "b 1 answers now"),
        (["remove", "b"], ("DELETE", "/admin/bundles/b", b""), "b 1 has gone, drained in 0.5 s"),
    ],
)
def test_change_is_asked_for_and_told(server, capsys, words, asked, told):
    side = "removed" if words[0] == "remove" else "added"
    server.next = 200, CHANGE | {side: BUNDLE}
    assert bundles(server, *words) == 0
    method, path, body = asked
    assert server.asked == [(method, path, "Bearer osk_env", body)]
    printed = capsys.readouterr().out
    assert told in printed
    assert printed.endswith("b  clip  1  /bundles/b\n")


def test_list_shows_what_is_served(server, capsys):
    server.next = 200, {"bundles": [BUNDLE, BUNDLE | {"name": "longer"}], "roots": []}
    assert bundles(server, "list") == 0
    assert capsys.readouterr().out == "b       clip  1  /bundles/b\nlonger  clip  1  /bundles/b\n"


def test_nothing_served_is_said(server, capsys):
    server.next = 200, {"bundles": [], "roots": []}
    assert bundles(server, "list") == 0
    assert capsys.readouterr().out == "nothing is served\n"


def test_key_comes_from_a_file_where_one_is_named(server, tmp_path):
    (tmp_path / "key").write_text("osk_file\n")
    server.next = 200, {"bundles": [], "roots": []}
    assert bundles(server, "list", "--key-file", str(tmp_path / "key")) == 0
    assert server.asked[0][2] == "Bearer osk_file"


PROBLEM = {"type": "urn:openset:problem:bundle-refused", "title": "x", "status": 422, "detail": "its canary differs"}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((422, PROBLEM), "its canary differs"),
        ((404, PROBLEM | {"type": "urn:openset:problem:not-found"}), "start it with bundle_roots and api_keys_file"),
        ((502, b"<html>"), "the server answered 502 Bad Gateway"),
        ((200, b"{}"), "does not answer as an Openset server"),
    ],
)
def test_refusal_is_one_sentence(server, capsys, answer, told):
    server.next = answer
    assert bundles(server, "add", "b") == 2
    error = capsys.readouterr().err
    assert error.startswith("openset bundles: ")
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "localhost:8000", "nothing", "http://a:b"])
def test_server_that_cannot_be_asked_is_named(capsys, url):
    assert main(["bundles", "list", "--url", url]) == 2
    assert f"openset bundles: {url} cannot be reached: " in capsys.readouterr().err


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense"])
def test_server_of_this_machine_is_asked_without_a_proxy(server, monkeypatch, capsys, proxy):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.next = 200, {"bundles": [], "roots": []}
    assert bundles(server, "list") == 0
    monkeypatch.setenv("NO_PROXY", "[::1]")
    assert main(["bundles", "list", "--url", "http://openset.example"]) == 2
    assert "http://openset.example cannot be reached: " in capsys.readouterr().err


def test_key_file_that_is_missing_is_named(capsys, tmp_path):
    assert main(["bundles", "list", "--key-file", str(tmp_path / "none")]) == 2
    assert "none cannot be read" in capsys.readouterr().err


def test_key_is_not_sent_to_where_a_server_redirects(server, capsys):
    server.next = 302, {"": ""}
    server.more = {"Location": f"{server.url}/elsewhere"}
    assert bundles(server, "list") == 2
    assert [path for _, path, *_ in server.asked] == ["/admin/bundles"]
    assert "the server answered 302 Found" in capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 502])
def test_answer_that_breaks_off_is_a_sentence(server, capsys, status):
    server.next = status, b"{"
    server.more = {"Content-Length": "100"}
    assert bundles(server, "list") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
