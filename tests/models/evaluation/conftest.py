from collections.abc import Callable

import pytest

from models.evaluation import cli as command
from tests.models.evaluation.scripted_backend import OpensScripted, ScriptedBackend


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedBackend]:
    """Lets `openset evaluate` ask a backend with these answers."""

    def with_(**answers) -> ScriptedBackend:
        backend = ScriptedBackend(**answers)
        monkeypatch.setattr(command, "open_backend", OpensScripted(backend))
        return backend

    return with_
