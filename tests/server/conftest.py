"""An app with one fake detector and one fake encoder, and a client of it."""

import logging

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings

from .fakes import FakeDetector, FakeEncoder


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    """Whatever a test starts that configures the log of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


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
