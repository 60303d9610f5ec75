"""Request bodies: malformed ones and wrong fields are refused with a problem that names the cause, never with a 5xx."""

import base64
import gzip
import json
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import NotAcceptable
from server.middleware.request_middleware import RequestMiddleware
from server.routes.body import negotiate
from tests.server.fakes import picture

IMAGE = base64.b64encode(picture()).decode()


def refused(response, status, slug, *named):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == f"urn:openset:problem:{slug}"
    assert document["status"] == status
    assert document["title"]
    assert all(word in response.text for word in named), response.text


def post_form(client, path="/detect", *, files=(), **fields):
    return client.post(path, files=files or [("image", ("a.png", picture()))], data=fields)


def test_unknown_field_is_refused(client):
    refused(
        client.post("/detect", json={"image": IMAGE, "labels": ["dog"], "treshold": 0.3}), 422, "invalid-request",
        '"field":"treshold"', "there is no such field",
    )  # fmt: skip
    refused(post_form(client, labels="dog", treshold="0.3"), 422, "invalid-request", '"field":"treshold"')


def test_fields_in_the_url_are_refused(client):
    response = client.post("/detect?box_threshold=0.9", json={"image": IMAGE, "labels": ["dog"]})
    refused(response, 422, "invalid-request", "box_threshold", "fields go into the body")


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b'{"image": "\\ud800"}', b"[" * 2000, b"\xff\xfe"])
def test_broken_json_is_a_400(client, body):
    response = client.post("/detect", content=body, headers={"Content-Type": "application/json"})
    refused(response, 400, "malformed-body", "the body is not JSON")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"3"])
def test_json_that_is_no_object_is_refused(client, body):
    response = client.post("/detect", content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    refused(response, 422, "invalid-request", "body")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "imagery/gif", ""])
def test_other_content_types_are_refused(client, content_type):
    response = client.post("/detect", content=b"x=1", headers={"Content-Type": content_type})
    refused(response, 415, "unsupported-body", "application/json", "multipart/form-data", "image/*")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary="]
)
def test_broken_form_is_a_400(client, content_type):
    response = client.post("/detect", content=b"--y\r\nnonsense", headers={"Content-Type": content_type})
    refused(response, 400, "malformed-body")


def part(head, content):
    return b"--x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"


def test_form_without_its_closing_boundary_is_refused_not_cut(client):
    # The last part, here a threshold, would be dropped in silence.
    form = part(b'name="image"; filename="a.png"', picture()) + part(b'name="labels"', b"dog")
    form += part(b'name="box_threshold"', b"0.9")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/detect", content=form, headers=headers), 400, "malformed-body", "closing boundary")
    assert client.post("/detect", content=form + b"--x--\r\n", headers=headers).status_code == 200


def test_body_without_a_content_type_is_told_so(client):
    refused(client.post("/detect", content=b"x"), 415, "unsupported-body", "there is no Content-Type: send application")


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/detect", {"labels": ["d" * 1001]}, "String should have at most 1000 characters"),
        ("/detect", {"prompt": "d" * 10_001}, "String should have at most 10000 characters"),
        ("/classify", {"labels": ["d" * 1001]}, "String should have at most 1000 characters"),
        ("/classify", {"labels": []}, "give at least one"),
        ("/similarity", {"texts": []}, "give at least one"),
    ],
)
def test_field_that_is_too_long_or_short_has_one_plain_reason(client, path, fields, reason):
    (fault,) = client.post(path, json={"image": IMAGE} | fields).json()["errors"]
    assert fault["reason"] == reason


def test_caption_may_be_longer_than_a_label(client):
    refused(client.post("/detect", json={"image": IMAGE, "prompt": "dog. " * 1500}), 422, "prompt-too-long")


@pytest.mark.parametrize("field", ["labels", "images"])
def test_many_wrong_items_are_refused_by_their_number_or_at_the_first(client, field):
    body = {"image": IMAGE, "labels": ["dog"]} | {field: [1] * 1_000_000}
    refused(client.post("/detect", json=body), 422, "invalid-request", "more than 2532 values")
    body[field] = [1] * 2000
    refused(client.post("/detect", json=body), 422, "invalid-request", f'"field":"{field}.0"')


def test_thousands_of_unknown_fields_are_counted_not_listed(client):
    body = {"image": IMAGE, "labels": ["dog"]} | {f"f{place}": 0 for place in range(1500)}
    refused(client.post("/detect", json=body), 422, "invalid-request", "1500 fields and items are wrong")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "labels"),
        ({"labels": ["dog"], "box_threshold": 1.5}, "box_threshold"),
        ({"labels": ["dog"], "box_threshold": "high"}, "box_threshold"),
        ({"labels": ["dog"], "max_detections": 0}, "max_detections"),
        ({"labels": ["dog"], "box_format": "yxyx"}, "box_format"),
        ({"labels": ["dog", ""]}, "labels.1"),
        ({"labels": ["dog", 7]}, "labels.1"),
        ({"labels": ["d" * 1001]}, "labels.0"),
        ({"labels": ["dog"], "image": None}, "image"),
        ({"labels": ["dog"], "image": 5}, "image"),
        ({"labels": ["dog"], "image": "not base64!"}, "image"),
        ({"labels": ["dog"], "images": [IMAGE]}, "image"),
        ({"labels": ["dog"], "image": None, "images": []}, "image"),
        ({"labels": ["dog"], "model": 3}, "model"),
    ],
)
def test_field_that_does_not_fit_is_named(client, fields, field):
    response = client.post("/detect", json={"image": IMAGE} | fields)
    refused(response, 422, "invalid-request", field)
    assert IMAGE not in response.text


def test_nan_is_no_threshold(client):
    body = f'{{"image": "{IMAGE}", "labels": ["dog"], "box_threshold": NaN}}'
    response = client.post("/detect", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)


def test_form_field_given_twice_is_refused(client):
    response = client.post(
        "/detect", files=[("image", ("a.png", picture()))], data={"labels": "dog", "box_threshold": ["0.1", "0.2"]}
    )
    refused(response, 422, "invalid-request", "box_threshold", "only once")


def test_image_as_text_and_label_as_file_are_refused(client):
    files = [("labels", ("l.txt", b"dog")), ("other", ("o.png", picture()))]
    response = client.post("/detect", files=files, data={"image": IMAGE})
    refused(response, 422, "invalid-request", "this part must be a file", "this part must be text, not a file")


def test_images_part_works_like_image(client):
    assert post_form(client, files=[("images", ("a.png", picture()))], labels="dog").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_bound_is_a_413(start, chunked):
    client = start(max_body_bytes=2000)
    body = b'{"image": "' + b"A" * 5000 + b'", "labels": ["dog"]}'
    content = iter([body[:1000], body[1000:]]) if chunked else body
    response = client.post("/detect", content=content, headers={"Content-Type": "application/json"})
    refused(response, 413, "body-too-large", "2000 bytes")


def test_form_over_the_bound_is_a_413(start):
    client = start(max_body_bytes=2000)
    refused(post_form(client, files=[("image", ("a", b"x" * 3000))], labels="dog"), 413, "body-too-large")


def test_too_many_images_are_refused(start):
    client = start(max_images=2)
    for count in (3, 5):
        files = [("image", ("a.png", picture()))] * count
        response = post_form(client, files=files, labels="dog")
        assert response.status_code in (400, 422)
        assert "2" in response.json()["detail"] or "3" in response.json()["detail"]
    refused(
        client.post("/detect", json={"images": [IMAGE] * 3, "labels": ["dog"]}), 422, "invalid-request",
        "3 images, at most 2 are accepted",
    )  # fmt: skip


def test_too_many_labels_are_refused(start):
    client = start(max_labels=2)
    response = client.post("/detect", json={"image": IMAGE, "labels": ["a", "b", "c"]})
    refused(response, 422, "invalid-request", "labels: 3 labels, at most 2")


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"", 422, "broken-image"),
        (b"hello", 415, "unsupported-image"),
        (picture(form="JPEG", size=(200, 200))[:-200], 422, "broken-image"),
        (picture(size=(300, 300)), 413, "image-too-large"),
        (picture(size=(400, 2)), 413, "image-too-large"),
    ],
)
def test_bad_image_is_named_by_its_place(start, data, status, slug):
    client = start(max_image_pixels=50_000)
    files = [("image", ("a.png", picture())), ("image", ("b.png", data))]
    refused(post_form(client, files=files, labels="dog"), status, slug, "image 2 of 2")


def test_unknown_model_names_those_there_are(client):
    response = client.post("/detect", json={"image": IMAGE, "labels": ["dog"], "model": "yolo"})
    refused(response, 404, "unknown-model", "yolo", "fake-detector")


def test_model_that_cannot_do_it_names_those_that_can(client):
    response = client.post("/detect", json={"image": IMAGE, "labels": ["dog"], "model": "fake-encoder"})
    refused(response, 422, "unsuitable-model", "cannot detect", "fake-detector")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.just(IMAGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["image", "images", "labels", "prompt", "texts", "templates", "box_threshold", "nms_iou", "top_k", "model", "x"]
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    path=st.sampled_from(["/detect", "/classify", "/similarity"]),
    body=JSON_VALUES | st.dictionaries(FIELDS, JSON_VALUES, max_size=5),
)
def test_random_json_is_never_a_5xx(client, path, body):
    response = client.post(path, json=None) if body is None else client.post(path, content=_json(body), headers=_HEAD)
    assert response.status_code < 500, response.text


@FUZZ
@given(
    path=st.sampled_from(["/detect", "/classify", "/similarity"]),
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=5),
    field=st.sampled_from(["labels", "texts", "prompt"]),
)
def test_random_texts_are_answered_or_refused(client, path, texts, field):
    body = {"image": IMAGE, field: texts[0] if field == "prompt" else texts}
    response = client.post(path, content=_json(body), headers=_HEAD)
    assert response.status_code < 500, response.text


@FUZZ
@given(data=st.binary(max_size=300), path=st.sampled_from(["/detect", "/classify", "/similarity"]))
def test_random_image_bytes_are_never_a_5xx(client, data, path):
    fields = {"texts": "r"} if path == "/similarity" else {"labels": "r"}
    assert 400 <= post_form(client, path, files=[("image", ("x", data))], **fields).status_code < 500


@FUZZ
@given(data=st.binary(max_size=300))
def test_random_form_bytes_are_never_a_5xx(client, data):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (data, b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n' + data + b"\r\n--b--"):
        assert 400 <= client.post("/detect", content=body, headers=headers).status_code < 500


_HEAD = {"Content-Type": "application/json"}


def _json(value):
    return json.dumps(value)


OFFERED = ("application/json", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        ("image/png, */*", "image/png"),
        ("image/png;q=0.5, application/json;q=0.4", "image/png"),
        ("image/png;q=0.5, */*", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        ("text/html, application/*;q=0.1", "application/json"),
    ],
)
def test_best_type_is_chosen(accept, chosen):
    assert negotiate(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "application/json;q=nan", ";;,"])
def test_nothing_acceptable_is_refused(accept):
    with pytest.raises(NotAcceptable):
        negotiate(accept, OFFERED)


# -- bodies as they come: encodings, charsets, marks, names from elsewhere


GOOD = {"image": IMAGE, "labels": ["dog"]}
PACK = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda data: zlib.compress(data, wbits=-15),
    "identity": bytes,
    "gzip, identity": gzip.compress,
    " ,GZIP": lambda data: b"".join(gzip.compress(part) for part in (data[:7], b"", data[7:])),
}


@pytest.mark.parametrize("coding", PACK)
def test_packed_body_is_unpacked(client, coding):
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = client.post("/detect", content=PACK[coding](json.dumps(GOOD).encode()), headers=headers)
    assert answer.status_code == 200, answer.text
    headers["Content-Type"] = "image/png"
    assert client.post("/detect?labels=dog", content=PACK[coding](picture()), headers=headers).status_code == 200


@pytest.mark.parametrize("media_type", ["application/json", "image/jpeg"])
def test_body_that_is_packed_without_a_word_says_which_header_is_missing(client, media_type):
    headers = {"Content-Type": media_type}
    answer = client.post("/detect", content=gzip.compress(b"{}"), headers=headers)
    refused(answer, 400, "malformed-body", "packed by gzip: send it with Content-Encoding: gzip")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, br"])
def test_packing_that_cannot_be_undone_is_named_with_those_that_can(client, coding):
    answer = client.post("/detect", content=b"x", headers={"Content-Type": "image/png", "Content-Encoding": coding})
    refused(answer, 415, "unsupported-body", coding)
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        gzip.compress(b"{}", mtime=0)[:-3],
        gzip.compress(b"{}", mtime=0) + b"x",
        gzip.compress(b"", mtime=0) * 2000,
    ],
)
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_damaged_packed_body_is_refused(client, body, coding):
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    refused(client.post("/detect", content=body, headers=headers), 400, "malformed-body", coding)


def test_packing_may_be_told_in_several_headers(client):
    headers = [("Content-Type", "image/png"), ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    assert client.post("/detect?labels=dog", content=gzip.compress(picture()), headers=headers).status_code == 200
    answer = client.post("/detect", content=b"x", headers=[*headers, headers[-1]])
    refused(answer, 415, "unsupported-body", "packed several times")


@pytest.mark.parametrize("codec", ["utf-8", "latin-1"])
def test_form_may_tell_the_charset_of_its_texts_in_a_field(client, codec):
    fields = [("_charset_", codec), ("labels", "b\u00e4r")]
    parts = "".join(f'--x\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields)
    file = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + picture() + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/detect", content=parts.encode(codec) + file, headers=headers)
    assert answer.json()["results"][0]["labels"] == ["b\u00e4r"]
    body = parts.replace(codec, "utf-16").encode() + file
    refused(client.post("/detect", content=body, headers=headers), 415, "unsupported-body", "utf-16", "send UTF-8")


@pytest.mark.parametrize("path", ["/detect", "/classify", "/similarity", "/v2/models/fake-detector/infer"])
def test_bomb_is_refused_at_the_limit(start, path):
    client = start(max_body_bytes=100_000)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    refused(client.post(path, content=bomb, headers=headers), 413, "body-too-large", "100000 bytes")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_may_begin_with_a_byte_order_mark(client, mark):
    answer = client.post("/detect", content=mark + json.dumps(GOOD).encode(), headers=_HEAD)
    assert answer.status_code == 200


@pytest.mark.parametrize("charset", ["punycode", "utf-7", "utf-16", "idna", "rot13", "unicode_escape", "zlib", "x", ""])
@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data; boundary=x", "image/png"])
def test_charset_other_than_utf_8_and_latin_1_is_refused(client, charset, media_type):
    if media_type == "image/png" or not charset:
        media_type, charset = "application/json", charset or "punycode"
    headers = {"Content-Type": f"{media_type}; charset={charset}"}
    refused(client.post("/detect", content=b"{}", headers=headers), 415, "unsupported-body", charset, "send UTF-8")


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("iso-8859-1", "latin-1"),
        ("Latin1", "latin-1"),
        ("utf_8", "utf-8"),
        ("U8", "utf-8"),
        ("ISO_8859-1", "latin-1"),
        ("l1", "latin-1"),
    ],
)
def test_labels_are_read_in_their_charset(client, charset, codec):
    body = json.dumps(GOOD | {"labels": ["b\u00e4r"]}, ensure_ascii=False).encode(codec)
    headers = {"Content-Type": f"application/json; charset={charset}"}
    answer = client.post("/detect", content=body, headers=headers)
    assert answer.json()["results"][0]["labels"] == ["b\u00e4r"]
    form = part(b'name="image"; filename="a.png"', picture()) + part(b'name="labels"', "b\u00e4r".encode(codec))
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = client.post("/detect", content=form + b"--x--\r\n", headers=headers)
    assert answer.json()["results"][0]["labels"] == ["b\u00e4r"]


@pytest.mark.parametrize("name", ["file", "files", "img", "picture", "image_file", "inputs"])
def test_picture_in_a_field_of_another_name_is_told_the_right_one(client, name):
    for path in ("/detect", "/classify", "/similarity"):
        told = f'"field":"{name}","reason":"there is no such field: did you mean image?"'
        refused(post_form(client, path, files=[(name, ("a.png", picture()))]), 422, "invalid-request", told)
        refused(client.post(path, json={name: IMAGE}), 422, "invalid-request", told)
        refused(client.post(f"{path}?{name}=1", content=picture(), headers={"Content-Type": "image/png"}), 422,
                "invalid-request", told)  # fmt: skip
        refused(client.post(f"{path}?{name}=1", json={}), 422, "invalid-request", told)


def test_form_of_too_many_parts_or_too_long_a_text_is_refused(client):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    form = part(b'name="labels"', b"a") * 3000 + b"--x--\r\n"
    refused(client.post("/detect", content=form, headers=headers), 422, "invalid-request", "more than 2532 parts")
    form = part(b'name="prompt"', b"a" * 70_000) + b"--x--\r\n"
    refused(client.post("/detect", content=form, headers=headers), 422, "invalid-request", "prompt", "65536 bytes")


def memory_of(client):
    """The memory for bodies of the middleware around a client's app."""
    layer = client.app.middleware_stack
    while not isinstance(layer, RequestMiddleware):
        layer = layer.app
    return layer._admission._memory


def test_answers_and_bodies_share_the_memory_for_them(start, detector):
    client = start(max_body_bytes=40_000)
    holding = memory_of(client)
    other = holding.hold("other")
    assert other.resize(holding.total - 10_000)
    refused(client.post("/detect", content=b"x" * 20_000, headers={"Content-Type": "image/png"}), 503,
            "memory-exhausted")  # fmt: skip
    other.release()
    assert client.post("/detect", json=GOOD).status_code == 200
    assert holding.used == 0


LISTS = ["dog,cat", ["dog", "cat"], '["dog", "cat"]']


@pytest.mark.parametrize("labels", LISTS)
def test_labels_are_listed_by_one_rule_in_json_forms_and_queries(client, labels):
    form = {"files": {"image": picture()}, "data": {"labels": labels}}
    raw = {"params": {"labels": labels}, "content": picture(), "headers": {"Content-Type": "image/png"}}
    for request in ({"json": {"image": IMAGE, "labels": labels}}, form, raw):
        answer = client.post("/detect", **request).json()
        assert answer["results"][0]["labels"] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("path", "fields", "meant"),
    [
        ("/detect", {"labels": "dog;cat"}, '["dog", "cat"] for 2'),
        ("/detect", {"prompt": "dog, cat"}, "write 'dog. cat.'"),
        ("/similarity", {"texts": "a dog, a cat"}, '["a dog", "a cat"] for 2'),
        ("/classify", {"labels": "['dog', 'cat']"}, 'like ["dog", "cat"]'),
    ],
)
def test_list_that_could_be_meant_otherwise_is_refused_with_what_may_be_meant(client, path, fields, meant):
    response = client.post(path, files={"image": picture()}, data=fields)
    refused(response, 422, "invalid-request", *fields)
    assert meant in response.json()["errors"][0]["reason"]
