"""The path of one request through the server's files."""

import base64
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings

SERVER = Path(__file__).parents[2] / "server"
SCENE = (SERVER / "examples/scene.jpg").read_bytes()
BODY = {"image": base64.b64encode(SCENE).decode(), "labels": ["a dog", "a red ball"]}
# Files that a warm request passes, from the app on.
PATH = {
    "middleware/request_middleware.py",
    "middleware/admission.py",
    "routes/detect.py",
    "routes/body.py",
    "routes/payload.py",
    "json_text.py",
    "inference/pipeline.py",
    "inference/loaded_model.py",
    "inference/prompt_cache.py",
    "inference/decoders.py",
    "inference/decoder_forks.py",
    "inference/images.py",
    "inference/batching.py",
    "inference/fair_queue.py",
    "inference/request_images.py",
    "inference/request_options.py",
    "inference/responses.py",
    "bundle.py",
    "runtimes/ort.py",
}
# Not counted: the decoder process, where the image is read; data classes and schemas, which are passed along; the
# buffer pool; the connection; observers; and the contract's pure functions, which call nothing else of the server.
DATA = {
    "requests.py",
    "request_fields.py",
    "schemas.py",
    "errors.py",
    "settings.py",
    "request_context.py",
    "contract/manifest.py",
    "memory/pool.py",
}
DATA |= {"inference/queue_shares.py", "memory/client_shares.py", "routes/services.py"}
TRANSPORT = {"middleware/uvicorn_server.py", "middleware/endpoints.py"}
OBSERVERS = {"inference/progress.py", "telemetry/logs.py", "telemetry/stage_timer.py", "telemetry/tracing.py"}
DECODER_PROCESS = {"inference/decoder_process.py"}
CONTRACT = {"contract/image.py", "contract/text.py", "contract/postprocess.py", "contract/vocabulary.py"}
CONTRACT |= {"contract/list_text.py"}


@pytest.fixture
def files():
    """Records the server's files whose functions are called, in all threads, once `recording` is set."""
    called, recording = set(), threading.Event()

    def record(frame, event, _):
        if event == "call" and recording.is_set():
            called.add(frame.f_code.co_filename)

    before = sys.getprofile()
    threading.setprofile(record)
    sys.setprofile(record)
    yield lambda: {str(Path(name).relative_to(SERVER)) for name in called if name.startswith(str(SERVER))}, recording
    threading.setprofile(None)
    sys.setprofile(before)


def test_detection_passes_nineteen_files(files, bundled_detector):
    passed, recording = files
    with TestClient(create_app(Settings(threads=1, decode_threads=1), [bundled_detector])) as client:
        assert client.post("/detect", json=BODY).status_code == 200, "warm"
        recording.set()
        assert client.post("/detect", json=BODY).status_code == 200
        recording.clear()
    assert passed() - DATA - TRANSPORT - OBSERVERS - CONTRACT - DECODER_PROCESS == PATH
    assert len(PATH) == 19


def test_first_requests_import_nothing():
    code = f"""
import sys
from fastapi.testclient import TestClient
from server.app import create_app
from server.registry.model_registry import open_bundles
from server.settings import Settings

settings = Settings(threads=1)
with TestClient(create_app(settings, open_bundles(settings))) as client:
    client.get("/livez")
    loaded = set(sys.modules)
    for path, texts in (("/detect", "labels"), ("/classify", "labels"), ("/similarity", "texts")):
        body = {{"image": {BODY["image"]!r}, texts: ["a dog", "a red ball"]}}
        assert client.post(path, json=body).status_code == 200
    print(sorted(set(sys.modules) - loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=SERVER.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "they would count as a stage's time"
