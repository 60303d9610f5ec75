"""The OpenAPI document: schemathesis requests made from it are answered as it says, and its examples work."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks

from server.app import create_app
from server.request_fields import EXAMPLE_IMAGE
from server.settings import Settings
from tests.server.fakes import picture

load_all_checks()
ROOT = Path(__file__).parents[3]
WORK, SYSTEM = ["/detect", "/classify", "/similarity"], ["/models", "/livez", "/readyz", "/metrics"]
OF_MODEL = ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"]
INFER = OF_MODEL[0] + "/infer"
PROTOCOL = ["/v2", "/v2/health/live", "/v2/health/ready"]
ABOUT_MODEL = [*OF_MODEL, *(path + "/ready" for path in OF_MODEL)]
PATHS = create_app(Settings(), []).openapi()["paths"]
NAMED = {*WORK, *SYSTEM, *PROTOCOL, *ABOUT_MODEL, INFER}
OTHERS = [(method.upper(), path) for path in PATHS if path not in NAMED for method in PATHS[path]]
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
SEVERAL_WAYS = ("image", "images", "image_url", "image_urls")


def no_fault_of_ours(context, response, case):
    """No 5xx, but for the 504 of a deadline that the request itself set."""
    asked_for = response.status_code == 504 and "X-Request-Timeout-Ms" in (case.headers or {})
    assert response.status_code < 500 or asked_for, response.text


def with_a_picture(case):
    """The made request with a picture that can be read, since made ones never can."""
    if isinstance(case.body, dict):
        form = case.media_type == "multipart/form-data"
        case.body = {name: value for name, value in case.body.items() if name not in SEVERAL_WAYS}
        case.body["image"] = [picture()] if form else EXAMPLE_IMAGE
    elif case.media_type == "image/*":
        case.body = picture()


def asked(start, method, path, *, change=with_a_picture, **strategy):
    """The statuses of requests made from the document, each answer being as the document says."""
    operation = schemathesis.openapi.from_asgi("/openapi.json", start().app)[path][method]
    statuses = set()

    @FUZZ
    @given(operation.as_strategy(**strategy), st.booleans())
    def ask(case, changed):
        if changed:
            change(case)
        response = case.call()
        statuses.add(response.status_code)
        conforming = [checks.content_type_conformance, checks.response_schema_conformance]
        case.validate_response(response, checks=[no_fault_of_ours, checks.status_code_conformance, *conforming])

    ask()
    return statuses


@pytest.mark.parametrize("path", WORK)
def test_requests_as_the_document_has_them_are_answered_or_refused_as_it_says(start, path):
    assert asked(start, "POST", path, generation_mode=GenerationMode.POSITIVE) & {200, 422}


@pytest.mark.parametrize("path", WORK)
def test_requests_against_the_document_are_refused_as_it_says(start, path):
    assert 422 in asked(start, "POST", path, generation_mode=GenerationMode.NEGATIVE)


@pytest.mark.parametrize("path", SYSTEM)
def test_questions_of_operators_are_answered_as_the_document_says(start, path):
    assert asked(start, "GET", path) == {200}


@pytest.mark.parametrize("path", PROTOCOL)
def test_questions_of_the_open_inference_protocol_are_answered_as_the_document_says(start, path):
    assert asked(start, "GET", path) == {200}


@pytest.mark.parametrize("path", ABOUT_MODEL)
def test_questions_about_a_model_are_answered_as_the_document_says(start, path):
    assert asked(start, "GET", path) <= {200, 404}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_tensors_as_the_document_has_them_are_answered_or_refused_as_it_says(start, mode):
    def of_our_model(case):
        case.path_parameters = {"name": "fake-detector"}
        if isinstance(case.body, dict):
            image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_IMAGE]}
            case.body["inputs"] = [image, image | {"name": "labels", "data": ["a dog"]}]

    assert {200, 422} & asked(start, "POST", INFER, change=of_our_model, generation_mode=mode)


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_every_other_endpoint_answers_as_the_document_says(start, method, path):
    assert asked(start, method, path)


def curl(client, line, files):
    """The request of a `curl` command, for the options that the examples use."""
    _, *words = shlex.split(line)
    form, headers, body, url = [], {}, None, ""
    while words:
        word = words.pop(0)
        if word == "-F":
            name, _, value = words.pop(0).partition("=")
            form.append((name, ("x", files[value[1:]]) if value.startswith("@") else (None, value)))
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "--data-binary":
            body = files[words.pop(0)[1:]]
        elif word == "-o":
            words.pop(0)
        else:
            assert not word.startswith("-"), f"{word} is not understood here"
            url = word
    parts = urlsplit("http://" + url)
    return client.post(f"{parts.path}?{parts.query}".rstrip("?"), files=form or None, content=body, headers=headers)


@pytest.mark.parametrize("path", WORK)
def test_example_of_a_body_works_as_printed(client, path):
    content = client.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]
    response = client.post(path, json=content["application/json"]["example"])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", WORK)
def test_commands_of_the_documentation_work_as_printed(client, path):
    text = client.get("/openapi.json").json()["paths"][path]["post"]["description"].replace("\\\n", " ")
    commands = re.findall(r"^ *(curl .*)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert curl(client, command, {"street.jpg": picture(form="JPEG")}).status_code == 200, command
