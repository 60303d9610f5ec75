"""Hostile input against the bundled models: never a 5xx, never a dead worker.

Every refusal is a problem of a known type that names the fault. `pytest --hypothesis-profile deep` tries far more.
"""

import base64
import json
from urllib.parse import quote_from_bytes

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.app import create_app
from server.bundle import Bundle
from server.errors import KINDS
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import SHIPPED
from server.request_fields import EXAMPLE_IMAGE
from server.requests import ClassifyRequest, DetectRequest, SimilarityRequest
from server.settings import Settings
from tests.server.fakes import picture
from tests.server.listening import listening

from .hostile import ANY_TEXT, JSON_VALUES, PICTURES, TEXTS, VALID

DETECTORS = ("grounding-dino-mini", "glip-mini")
WORK = ("/detect", "/classify", "/similarity")
SLUGS = {(kind.status, "urn:openset:problem:" + kind.slug) for kind in KINDS.values()}
FIELDS = sorted({name for model in (DetectRequest, ClassifyRequest, SimilarityRequest) for name in model.model_fields})
PNG = picture(size=(8, 8))
HOSTILE = settings(max_examples=settings.default.max_examples // 2, suppress_health_check=list(HealthCheck))
BOUNDARY = "b"


@pytest.fixture(scope="module")
def server():
    """A client of a listening server with the bundled models."""
    settings = Settings(threads=1, decode_threads=2, warm_up="none")
    app = create_app(settings, [Bundle(BUNDLED / name, threads=1) for name in SHIPPED])
    with listening(app) as ((host, port), _), httpx.Client(base_url=f"http://{host}:{port}", timeout=120) as client:
        yield client


def answered(server, path, **sent):
    """The answer to a request, which is a result or a problem that names the fault; the server is well afterwards."""
    answer = server.post(path, **sent)
    assert server.get("/livez").status_code == 200
    if answer.status_code == 200:
        assert answer.json()["results" if path.startswith(WORK[:2]) else "similarity"]
        return answer
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["type"]) in SLUGS
    assert problem["status"] == answer.status_code
    assert problem["detail"].strip()
    if answer.status_code == 422 and "invalid-request" in problem["type"]:
        assert all(fault["field"] and fault["reason"] for fault in problem["errors"])
    return answer


def form(fields):
    """(name, bytes, whether a file) as a multipart body."""
    parts = []
    for name, content, file in fields:
        extra = b'; filename="x"' if file else b""
        parts.append(b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name, extra, content))
    return b"".join(parts) + b"--b--\r\n"


def post_form(server, path, fields):
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return answered(server, path, content=form(fields), headers=headers)


@HOSTILE
@given(PICTURES)
def test_any_bytes_for_a_picture_are_answered_or_refused_by_name(server, data):
    answer = answered(server, "/classify?labels=dog&labels=cat", content=data, headers={"Content-Type": "image/png"})
    if data.startswith(b"\x1f\x8b\x08"):
        assert "gzip" in answer.json()["detail"], "a packed body, which no header tells of"
    elif answer.status_code != 200:
        assert answer.json()["type"].rpartition(":")[2] in ("unsupported-image", "broken-image", "image-too-large")
        assert answer.json()["detail"].startswith("the image ")


@HOSTILE
@given(st.lists(PICTURES, min_size=2, max_size=3), st.sampled_from(DETECTORS))
def test_any_bytes_among_several_pictures_are_named_by_their_place(server, images, model):
    fields = [(b"image", data, True) for data in images] + [
        (b"labels", b"dog", False),
        (b"model", model.encode(), False),
    ]
    answer = post_form(server, "/detect", fields)
    if answer.status_code != 200:
        assert answer.json()["detail"].startswith(tuple(f"image {place + 1} of " for place in range(len(images))))


@pytest.mark.parametrize("kind", VALID, ids="-".join)
def test_pictures_that_are_changed_were_good_before(server, kind):
    answer = answered(server, "/classify?labels=dog", content=VALID[kind], headers={"Content-Type": "image/png"})
    assert answer.status_code == 200


@HOSTILE
@given(st.lists(TEXTS, max_size=6), st.sampled_from(DETECTORS))
@example(["a"] * 1500, "glip-mini")
@example(["dog", "\ud800"], "glip-mini")
@example(["\0"], "grounding-dino-mini")
def test_any_labels_come_back_as_they_were_written_or_are_refused(server, labels, model):
    body = json.dumps({"image": EXAMPLE_IMAGE, "labels": labels, "model": model})
    answer = answered(server, "/detect", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code == 200:
        assert answer.json()["results"][0]["labels"] == labels


@HOSTILE
@given(TEXTS, st.sampled_from(DETECTORS))
@example("a. " * 3333, "glip-mini")
def test_any_caption_is_answered_or_refused(server, prompt, model):
    body = json.dumps({"image": EXAMPLE_IMAGE, "prompt": prompt, "model": model})
    answered(server, "/detect", content=body, headers={"Content-Type": "application/json"})


@HOSTILE
@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=2), st.booleans())
def test_any_texts_and_templates_are_scored_or_refused(server, texts, templates, classify):
    asked = {"labels": texts, "templates": templates} if classify else {"texts": texts}
    body = json.dumps({"image": EXAMPLE_IMAGE} | asked)
    path = "/classify" if classify else "/similarity"
    answered(server, path, content=body, headers={"Content-Type": "application/json"})


@HOSTILE
@given(st.sampled_from(WORK), st.lists(st.tuples(st.sampled_from(FIELDS), st.one_of(st.binary(max_size=40), ANY_TEXT))))
def test_any_fields_of_a_form_or_a_query_are_answered_or_refused(server, path, fields):
    given = [
        (name, value if isinstance(value, bytes) else value.encode(errors="surrogatepass")) for name, value in fields
    ]
    parts = [(name.encode(), value, name in ("image", "images")) for name, value in given]
    post_form(server, path, [(b"image", PNG, True), *parts])
    query = "&".join(f"{name}={quote_from_bytes(value)}" for name, value in given)
    answered(server, f"{path}?{query}", content=PNG, headers={"Content-Type": "image/png"})


@HOSTILE
@given(st.sampled_from(WORK), st.dictionaries(st.sampled_from([*FIELDS, "other"]), JSON_VALUES), JSON_VALUES)
def test_json_of_any_structure_is_answered_or_refused(server, path, fields, whole):
    headers = {"Content-Type": "application/json"}
    good = (
        {"image": EXAMPLE_IMAGE, "labels": ["dog"]}
        if path != "/similarity"
        else {"image": EXAMPLE_IMAGE, "texts": ["a"]}
    )
    for body in (good | fields, fields, whole):
        answered(server, path, content=json.dumps(body), headers=headers)


@HOSTILE
@given(st.sampled_from(WORK), st.binary(max_size=200), st.integers(0, 400), st.binary(max_size=12))
def test_damaged_json_and_forms_are_refused_or_answered(server, path, whole, place, damage):
    fields = [(b"image", PNG, True), (b"labels", b"dog", False)]
    bodies = [("application/json", json.dumps({"image": base64.b64encode(PNG).decode(), "labels": ["dog"]}).encode())]
    bodies.append((f"multipart/form-data; boundary={BOUNDARY}", form(fields)))
    for content_type, body in bodies:
        for data in (whole, body[:place] + damage + body[place + 1 :], body[:place]):
            answered(server, path, content=data, headers={"Content-Type": content_type})


LINE = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40).map(
    str.strip
)
HEADERS = {
    "Content-Type": st.one_of(LINE, *map(LINE.map, ("multipart/form-data; boundary={}".format, "image/{}".format))),
    "Accept": st.one_of(LINE, LINE.map("image/png;q={}".format)),
    "X-Priority": LINE,
    "X-Request-ID": LINE,
    "Authorization": LINE,
    "Origin": LINE,
}  # fmt: skip


@HOSTILE
@given(st.sampled_from(WORK), st.fixed_dictionaries({}, optional=HEADERS))
def test_any_headers_are_answered_or_refused(server, path, headers):
    given = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = server.post(path, content=form([(b"image", PNG, True), (b"labels", b"dog", False)]), headers=given)
    assert answer.status_code < 500
    assert server.get("/livez").status_code == 200
    if answer.status_code >= 400:
        assert answer.json()["type"].startswith("urn:openset:problem:")


def test_workers_are_well_after_all_of_it(server):
    assert server.get("/readyz").status_code == 200
    for path, field in (("/detect", "labels"), ("/classify", "labels"), ("/similarity", "texts")):
        for model in DETECTORS if path == "/detect" else ("clip-mini",):
            data = {"image": EXAMPLE_IMAGE, field: ["dog"], "model": model}
            assert server.post(path, json=data).status_code == 200
