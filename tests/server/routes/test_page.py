"""The page's files over HTTP: access, headers, and the same files in an installed package."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "server/page"
FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")}
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
KEYS = "visitor 0f3e9c0c6a5f3f6c6f2f0c3a5cbb6a4a4a9e2a7b6d1b3d0f7b0e8b9c5d4e3f2a"


def examples():
    return re.findall(r"file: '(.+?)'", SCRIPTS["examples.js"])


def test_root_is_the_page(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.text == HTML
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("name", [*FILES, *(f"examples/{name}" for name in examples())])
def test_every_file_comes_with_its_type_and_guarded(client, name):
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200
    assert KINDS[Path(name).suffix] in answer.headers["content-type"]
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "camera=(self)" in answer.headers["permissions-policy"], "the page takes pictures"
    assert "microphone=()" in answer.headers["permissions-policy"]


def test_file_that_a_browser_has_is_not_sent_again(client):
    first = client.get("/page/app.js")
    again = client.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/", "/page/../app.py", "/page/..%2Fapp.py", "/page/%2e%2e/app.py"]
)
def test_what_is_no_file_of_the_page_is_a_problem(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:openset:problem:not-found"


def test_page_is_switched_off(start):
    client = start(page=False)
    assert client.get("/").status_code == client.get("/page/app.js").status_code == 404
    assert client.get("/docs").status_code == 200


def test_page_needs_no_key_but_what_it_asks_does(start, tmp_path):
    (tmp_path / "keys.txt").write_text(KEYS)
    client = start(api_keys_file=tmp_path / "keys.txt")
    assert [client.get(path).status_code for path in ("/", "/page/app.js", "/page/examples/scene.jpg")] == [200] * 3
    assert [client.get(path).status_code for path in ("/models", "/docs", "/page")] == [401] * 3
    assert client.post("/detect").status_code == 401


def test_page_is_closed_where_it_is_not_among_the_open_endpoints(start, tmp_path):
    (tmp_path / "keys.txt").write_text(KEYS)
    client = start(api_keys_file=tmp_path / "keys.txt", open_endpoints=["/livez"])
    assert [client.get(path).status_code for path in ("/", "/page/app.js")] == [401, 401]


def test_visits_are_counted_under_one_endpoint(client):
    for path in ("/", "/page/app.js", "/page/none.js"):
        client.get(path)
    counted = re.findall(
        r'^openset_requests_total\{endpoint="([^"]*)",status="(\d+)"\} (\S+)', client.get("/metrics").text, re.M
    )
    assert ("/", "200", "2.0") in counted
    assert not [endpoint for endpoint, *_ in counted if "page" in endpoint]


def test_page_is_packaged_with_the_server():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert {"page/*", "examples/*"} <= set(data["server"])
    assert all(path.is_file() for path in FOLDER.iterdir()), "the pattern reaches no folders"


def test_page_loads_nothing_from_elsewhere_and_has_no_inline_code():
    text = HTML + "".join(SCRIPTS.values()) + "".join(path.read_text("utf-8") for path in FOLDER.glob("*.css"))
    addresses = set(re.findall(r"https?://[^\s'\"`]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "a name space, never fetched"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", HTML)


def test_what_users_type_never_becomes_markup():
    for name, text in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )


def test_page_uses_only_ids_that_it_has():
    has = set(re.findall(r'\bid="([\w-]+)"', HTML))
    used = {name for text in SCRIPTS.values() for name in re.findall(r"find\('([\w-]+)'\)", text)}
    attributes = r'\b(?:for|aria-labelledby|aria-describedby|aria-controls)="([\w -]+)"'
    named = {name for names in re.findall(attributes, HTML) for name in names.split()}
    assert used | named <= has


def test_scripts_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 144 * 1024
    assert all(len(text.splitlines()) <= 400 for text in SCRIPTS.values())


def test_examples_are_light():
    sizes = [(ROOT / "server/examples" / name).stat().st_size for name in examples()]
    assert len(sizes) >= 5
    assert max(sizes) < 64 * 1024
