"""Clients generated from the OpenAPI document work on every endpoint, in Python and in TypeScript.

TypeScript needs Node and the packages of tests/server/routes/typescript (`npm install` there); without them it is
skipped. `redocly lint` comes with them.
"""

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.app import create_app
from server.bundle import CARD_FILE
from server.request_fields import EXAMPLE_IMAGE
from server.settings import Settings
from tests.server.fakes import FakeDetector, FakeEncoder, picture
from tests.server.listening import listening

FOLDER = Path(__file__).parent / "typescript"
NODE_MODULES = Path(os.environ.get("TYPESCRIPT_NODE_MODULES", FOLDER / "node_modules"))
needs_generator = pytest.mark.skipif(
    not shutil.which("openapi-python-client"), reason="openapi-python-client, of the extra dev, is missing"
)
needs_node = pytest.mark.skipif(
    not (shutil.which("node") and NODE_MODULES.is_dir()),
    reason=f"TypeScript is not checked: Node or {NODE_MODULES} is missing",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    detector = FakeDetector(folder)
    detector.folder = folder
    (folder / CARD_FILE).write_text("# A detector of doors", encoding="utf-8")
    return create_app(Settings(decode_threads=1), [detector, FakeEncoder(folder)])


@pytest.fixture(scope="module")
def document(app, tmp_path_factory):
    """The document in a file."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(app.openapi()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def url(app):
    with listening(app) as ((host, port), _):
        yield f"http://{host}:{port}"


@pytest.fixture(scope="module")
def generated(document, tmp_path_factory):
    """The generated Python package."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.yml").write_text("post_hooks: []\n", encoding="utf-8")  # no formatter
    command = ["openapi-python-client", "generate", "--path", document, "--meta", "none", "--config", "config.yml"]
    command += ["--output-path", folder / "made_client"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    sys.path.insert(0, str(folder))
    yield importlib.import_module("made_client")
    sys.path.remove(str(folder))


def operations(app):
    paths = app.openapi()["paths"].values()
    return {operation["operationId"]: operation for path in paths for operation in path.values()}


@needs_generator
def test_python_client_of_every_endpoint_gets_its_answer(app, generated, url):
    models = importlib.import_module("made_client.models")
    types = importlib.import_module("made_client.types")
    client = generated.Client(url)

    def call(operation, /, status=200, **arguments):
        (module,) = (file for file in Path(generated.__file__).parent.glob(f"api/*/{operation}.py"))
        asked = importlib.import_module(f"made_client.api.{module.parent.name}.{operation}")
        response = asked.sync_detailed(client=client, **arguments)
        assert response.status_code == status, response.content
        called.add(operation)
        return response.parsed

    def file():
        return types.File(payload=io.BytesIO(picture()), file_name="a.png", mime_type="image/png")

    called = set()
    bodies = {"detect": {"labels": ["a dog"]}, "classify": {"labels": ["r", "g"]}, "similarity": {"texts": ["r"]}}
    for name, fields in {**bodies, "embed": {"texts": ["r"]}}.items():
        kind = name.capitalize()
        for body in (
            getattr(models, f"{kind}Request")(image=EXAMPLE_IMAGE, **fields),
            getattr(models, f"{kind}Form")(image=[file()], **fields),
        ):
            assert type(call(name, body=body)).__name__ == f"{kind}Answer"
            job = call(f"submit_{name}", status=202, body=body)
            while call("job", id=job.id).state != "succeeded":
                time.sleep(0.02)
            assert type(call("job_result", id=job.id)).__name__ == f"{kind}Answer"
            assert job.id in [each.id for each in call("jobs").jobs]
            call("cancel_job", status=204, id=job.id)
    tensors = [
        models.RequestInput(name="image", datatype="BYTES", shape=[1], data=[EXAMPLE_IMAGE]),
        models.RequestInput(name="labels", datatype="BYTES", shape=[1], data=["a dog"]),
    ]
    for name, versioned in (("infer", "infer_version"), ("model_metadata", "model_version_metadata"),
                            ("model_ready", "model_version_ready")):  # fmt: skip
        body = {"body": models.InferRequest(inputs=tensors)} if name == "infer" else {}
        call(name, name="fake-detector", **body)
        call(versioned, name="fake-detector", version="1", **body)
    for name in ("models", "livez", "readyz", "metrics", "server_metadata", "live", "ready"):
        call(name)
    call("model_card", name="fake-detector")
    assert called == operations(app).keys()


@needs_node
def test_typescript_client_of_every_endpoint_compiles_and_gets_its_answer(app, document, tmp_path, url):
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    for file in ("client.ts", "tsconfig.json", "package.json"):
        shutil.copy(FOLDER / file, tmp_path)

    def run(*command, **environment):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tools = tmp_path / "node_modules/.bin"
    run(tools / "openapi-typescript", document, "-o", "schema.d.ts")
    run(tools / "tsc", "--project", "tsconfig.json")
    answered = run("node", "client.js", OPENSET_URL=url, EXAMPLE_IMAGE=EXAMPLE_IMAGE).split()
    assert set(answered) == set(app.openapi()["paths"])


@needs_node
def test_document_is_clean_by_redocly(document):
    done = subprocess.run([NODE_MODULES / ".bin/redocly", "lint", document], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\d+ (warning|error)", done.stdout + done.stderr), done.stdout + done.stderr


def test_operation_ids_are_names_and_bodies_are_named_schemas(app):
    for name, operation in operations(app).items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert all(parameter["in"] != "query" for parameter in operation.get("parameters", ()))
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["schema"].keys() == {"$ref"}
    assert "HTTPValidationError" not in app.openapi()["components"]["schemas"]


def test_answer_of_every_endpoint_has_one_media_type(app):
    for operation in operations(app).values():
        (response,) = (each for status, each in operation["responses"].items() if status < "300")
        assert len(response.get("content", {})) == ("204" not in operation["responses"])
