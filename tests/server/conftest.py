"""An app with one fake detector and one fake encoder, a client of it, and the bundled models."""

import logging

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.bundle import Bundle
from server.middleware.auth import digest_of
from server.registry.model_cache import BUNDLED
from server.settings import Settings

from .fake_cuda import install
from .fakes import FakeDetector, FakeEncoder
from .test_app import running


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    """Whatever a test starts that configures the log of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def binding(monkeypatch):
    """The stand-in for CUDA's binding, and a driver that shows one GPU."""
    monkeypatch.setattr("server.runtimes.gpu._opened", {})
    for module in ("device", "ort"):
        monkeypatch.setattr(f"server.runtimes.{module}.gpu_at", {0: ("NVIDIA RTX 4090", "8.9")}.get)
    return install(monkeypatch)


@pytest.fixture
def detector(tmp_path):
    return FakeDetector(tmp_path)


@pytest.fixture
def encoder(tmp_path):
    return FakeEncoder(tmp_path)


@pytest.fixture
def start(detector, encoder):
    """Starts an app with the given settings; yields its client."""
    clients = []

    def begin(**settings):
        app = create_app(Settings(**{"decode_threads": 2} | settings), [detector, encoder])
        client = TestClient(app, raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield begin
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start):
    return start()


@pytest.fixture
def machine(tmp_path):
    """Writes files of a pretended /proc and /sys/fs/cgroup; returns their keyword arguments."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return {"proc": tmp_path / "proc", "cgroup": tmp_path / "cgroup"}

    return write


@pytest.fixture(scope="session")
def bundled_detector():
    return Bundle(BUNDLED / "grounding-dino-mini", threads=1)


@pytest.fixture(scope="session")
def bundled_encoder():
    return Bundle(BUNDLED / "clip-mini", threads=1)


@pytest.fixture
def fed(monkeypatch):
    """Lists what a bundle's part is fed, each run a dictionary of copies."""

    def record(bundle, part):
        session, runs = bundle._sessions[part], []

        class Recorder:
            inputs = session.inputs

            def run(self, tensors):
                runs.append({name: tensors[name].copy() for name in session.inputs})
                return session.run(tensors)

        monkeypatch.setitem(bundle._sessions, part, Recorder())
        return runs

    return record


@pytest.fixture
def roots(tmp_path):
    """A root with folders of bundles that tests open by their names, and a file of keys."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "keys.txt").write_text(
        f"ann {digest_of('osk_admin')} admin\nbob {digest_of('osk_user')}\n", encoding="utf-8"
    )
    return root


@pytest.fixture
def serving(roots, tmp_path):
    """A running app with keys and a root; its client is an administrator."""

    def start(*bundles, **settings):
        return running(*bundles, bundle_roots=[roots], api_keys_file=tmp_path / "keys.txt", **settings)

    return start
