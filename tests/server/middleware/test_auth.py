"""API keys: a client with a key is known by its name, others get a 401; the file is reloaded when it changes."""

import errno
import hashlib
import http.client
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from server.__main__ import main
from server.app import create_app
from server.errors import NotReady, Unauthorized
from server.middleware import auth
from server.middleware.auth import Key, Keys, digest_of
from server.settings import Settings, SettingsError
from tests.server.fakes import picture
from tests.server.listening import listening

ALICE, BOB = "osk_alice", "osk_bob"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text(f"# who may ask\n\nalice {digest_of(ALICE)}\n  bob\t{digest_of(BOB)}\n", encoding="utf-8")
    return path


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def detect(client, **headers):
    files = [("image", ("a.png", picture()))]
    return client.post("/detect", files=files, data={"labels": "dog"}, headers=headers)


def rewrite(path, text):
    """Change a file within one tick of its file system's clock."""
    before = path.stat()
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def refused(keys, key=ALICE):
    with pytest.raises(Unauthorized, match="or was removed"):
        keys.key(Headers(bearer(key)))
    return True


def test_file_holds_the_sha256_of_a_key():
    assert digest_of("abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        bearer(ALICE), {"Authorization": f"bearer  {ALICE} "}, {"X-API-Key": ALICE},
        {"Authorization": "Basic eDp5", "X-API-Key": ALICE},
    ],
)  # fmt: skip
def test_key_is_read_from_either_header(file, headers):
    assert Keys(file).key(Headers(headers)) == Key("alice", admin=False)


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({}, False), ({"Authorization": "Basic eDp5"}, False), (bearer(""), False), ({"X-API-Key": " "}, False),
        (bearer("osk_eve"), True), (bearer(ALICE[:-1]), True), (bearer(digest_of(ALICE)), True),
        ({"X-API-Key": "ключ".encode().decode("latin-1")}, True),
    ],
)  # fmt: skip
def test_missing_and_wrong_keys_are_told_apart(file, headers, wrong):
    with pytest.raises(Unauthorized) as refusal:
        Keys(file).key(Headers(headers))
    assert ("invalid_token" in refusal.value.headers["WWW-Authenticate"]) == wrong


def test_change_of_the_file_counts_at_the_next_request(file):
    keys = Keys(file)
    rewrite(file, f"carol {digest_of('osk_carol')}\n")
    assert keys.key(Headers(bearer("osk_carol"))).name == "carol"
    with pytest.raises(Unauthorized, match="or was removed"):
        keys.key(Headers(bearer(ALICE)))


def test_two_lines_of_a_name_are_one_client(file):
    rewrite(file, f"alice {digest_of(ALICE)}\nalice {digest_of('osk_next')}\n")
    assert {Keys(file).key(Headers(bearer(key))).name for key in (ALICE, "osk_next")} == {"alice"}


@given(st.lists(st.sets(st.sampled_from(["osk_a", "osk_b", "osk_c"])), min_size=1, max_size=6))
def test_key_counts_while_its_line_stands_in_the_file(tmp_path_factory, states):
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"first {digest_of('osk_first')}\n")
    keys = Keys(path)
    for listed in states:
        rewrite(path, "".join(f"{key} {digest_of(key)}\n" for key in sorted(listed)))
        for key in ("osk_a", "osk_b", "osk_c"):
            assert keys.key(Headers(bearer(key))).name == key if key in listed else refused(keys, key)


@pytest.mark.parametrize("change", ["mistyped", "emptied", "removed", "folder removed", "no text"])
def test_key_whose_line_is_gone_is_refused_whatever_else_the_file_is(file, change, caplog):
    keys = Keys(file)
    match change:
        case "mistyped":
            rewrite(file, f"alice osk_in_the_clear\nbob {digest_of(BOB)}\n")
        case "emptied":
            rewrite(file, "")
        case "removed":
            file.unlink()
        case "folder removed":
            file.unlink()
            file.parent.rmdir()
            file.parent.write_text("a file now")
        case "no text":
            file.write_bytes(b"\xff\xfe\x00" * 100)
    assert all(refused(keys) for _ in range(3))
    assert change == "mistyped" or refused(keys, BOB)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1, "told once"
    assert "osk_in_the_clear" not in caplog.text


def test_line_that_is_wrong_takes_no_other_key_with_it(file):
    keys = Keys(file)
    rewrite(file, f"what\nbob {digest_of(BOB)}\n")
    assert keys.key(Headers(bearer(BOB))).name == "bob"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.ESTALE])
def test_no_key_counts_while_the_file_cannot_be_read_and_all_do_after(file, monkeypatch, caplog, number):
    keys, read = Keys(file), auth._read

    def fail(path):
        raise OSError(number, os.strerror(number))

    rewrite(file, f"bob {digest_of(BOB)}\n")
    monkeypatch.setattr(auth, "_read", fail)
    for _ in range(3):
        with pytest.raises(NotReady, match="the API keys cannot be read"):
            keys.key(Headers(bearer(ALICE)))
    monkeypatch.setattr(auth, "_read", read)
    assert refused(keys)
    assert keys.key(Headers(bearer(BOB))).name == "bob"
    assert caplog.text.count("no key counts") == 1


def test_file_that_comes_back_is_read_again(file):
    keys, text = Keys(file), file.read_text()
    file.unlink()
    assert refused(keys)
    file.write_text(text)
    assert keys.key(Headers(bearer(ALICE))).name == "alice"


def test_pipe_is_no_file_of_keys(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="it is no regular file"):
        Keys(tmp_path / "pipe")


def test_file_without_end_is_refused_in_time(file, monkeypatch):
    keys = Keys(file)
    monkeypatch.setattr(auth, "_MAX_BYTES", 100)
    with pytest.raises(NotReady):
        keys.key(Headers(bearer(ALICE)))


def test_key_is_refused_on_a_connection_that_was_open_before_it_was_removed(file, detector):
    app = create_app(Settings(api_keys_file=file, decode_threads=1), [detector])
    with listening(app) as (address, _):
        connection = http.client.HTTPConnection(*address, timeout=10)

        def status():
            connection.request("GET", "/models", headers=bearer(ALICE))
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert status() == 200
        socket = connection.sock
        rewrite(file, f"bob {digest_of(BOB)}\n")
        assert status() == 401
        assert connection.sock is socket
        connection.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no key"),
        ("# none\n", "has no key"),
        (f"alice {'0' * 63}\n", "line 1, is not a NAME and a SHA-256 hash"),
        (f"\n{ALICE}\n", "line 2"),
        (f"alice {'0' * 64} more\n", "line 1"),
        (f"alice {'0' * 64} administrator\n", "line 1"),
    ],
)
def test_file_that_cannot_be_used_stops_the_start(tmp_path, text, reason):
    path = tmp_path / "keys.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=reason) as refusal:
        Keys(path)
    assert ALICE not in str(refusal.value)


def test_missing_file_stops_the_start_with_one_sentence(tmp_path, capsys):
    assert main(["serve", "--api-keys-file", str(tmp_path / "none")]) == 2
    assert "cannot be read: No such file or directory" in capsys.readouterr().err


def test_new_key_works_with_the_line_it_prints(tmp_path, capsys):
    assert main(["key", "new", "alice"]) == 0
    key, line = (row.partition(":")[2].strip() for row in capsys.readouterr().out.splitlines())
    path = tmp_path / "keys.txt"
    path.write_text(line, encoding="utf-8")
    assert Keys(path).key(Headers(bearer(key))).name == "alice"
    assert key not in line
    assert len(key) > 40


def test_line_may_make_its_key_an_administrators(file, capsys):
    assert main(["key", "new", "ann", "--admin"]) == 0
    key, line = (row.partition(":")[2].strip() for row in capsys.readouterr().out.splitlines())
    rewrite(file, f"{line}\nalice {digest_of(ALICE)}\n")
    assert Keys(file).key(Headers(bearer(key))) == Key("ann", admin=True)
    assert Keys(file).key(Headers(bearer(ALICE))) == Key("alice", admin=False)


def test_new_keys_differ_and_need_no_name(capsys):
    for _ in range(2):
        assert main(["key", "new"]) == 0
    keys = capsys.readouterr().out.splitlines()
    assert keys[0] != keys[2]
    assert main(["key", "new", "a b"]) == 2


def test_request_without_a_key_is_a_401_problem(start, file, detector):
    client = start(api_keys_file=file)
    runs = len(detector.runs)
    for headers, challenge in (({}, 'Bearer realm="openset"'), (bearer("x"), 'Bearer realm="openset", error="invalid')):
        response = detect(client, **headers)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["www-authenticate"].startswith(challenge)
        assert response.json()["type"] == "urn:openset:problem:unauthorized"
    assert len(detector.runs) == runs
    assert detect(client, **bearer(ALICE)).status_code == 200
    assert detect(client, **{"X-API-Key": BOB}).status_code == 200


def test_refused_keys_are_counted(start, file):
    client = start(api_keys_file=file)
    detect(client)
    assert 'openset_rejected_total{reason="unauthorized"} 1.0' in client.get("/metrics", headers=bearer(ALICE)).text


def test_all_but_health_needs_a_key_unless_the_operator_opens_it(start, file):
    closed = start(api_keys_file=file)
    asked = ["/livez", "/readyz", "/metrics", "/models", "/docs", "/openapi.json", "/nothing", "/livez/"]
    assert [closed.get(path).status_code for path in asked] == [200, 200] + [401] * 6
    opened = start(api_keys_file=file, open_endpoints=["/metrics"])
    assert [opened.get(path).status_code for path in asked[:4]] == [401, 401, 200, 401]


def test_work_cannot_be_opened(monkeypatch):
    assert main(["serve", "--open-endpoints", "/detect"]) == 2


def test_documentation_tells_of_keys_only_where_they_are_needed(start, file):
    assert "securitySchemes" not in start().get("/openapi.json").json()["components"]
    document = start(api_keys_file=file).get("/openapi.json", headers=bearer(ALICE)).json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert document["paths"]["/detect"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/livez"]["get"].get("security", document["security"]) == []
