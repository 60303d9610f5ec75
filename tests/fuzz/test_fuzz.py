"""The fuzz targets on their seeds alone, and the runner on a bug that it has to find."""

from dataclasses import replace

import pytest

from . import run as runner
from .targets import TARGETS


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    return TARGETS[request.param]()


def test_every_seed_is_read_or_refused_and_some_are_read(target):
    read = {name: target(data) for name, data in target.seeds().items()}
    assert any(read.values())
    assert not all(read.values())


def test_any_other_exception_is_a_bug(target):
    def broken(_):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        replace(target, read=broken)(b"")


def test_runner_finds_a_planted_bug_and_keeps_its_input(tmp_path, capfd):
    assert not runner.fuzz("planted", tmp_path, seconds=20)
    assert list(tmp_path.glob("planted-crash-*"))
    assert "FAILED" in capfd.readouterr().out


def test_runner_passes_over_a_target_without_a_bug(tmp_path):
    assert runner.fuzz("manifests", tmp_path, seconds=1)
