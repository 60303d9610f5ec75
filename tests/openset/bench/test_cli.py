"""`openset bench` against a server."""

import json
import os

import pytest

from server.__main__ import main
from tests.benchmarks.live_server import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), "--warm-up", "largest") as server:
        yield server.url


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr("openset.bench.cli._WARM_UP_S", 0.2)


def bench(url, *words):
    return main(["bench", url, "--labels", "dog,cat,cow", "--seconds", "2", "--objective", "20s", *words])


@pytest.mark.parametrize("task", ["detect", "classify", "similarity"])
def test_rate_that_is_answered_in_time_is_sustained(url, task, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert bench(url, "--task", task, "--rate", "2", "--wanted", "100", "--json", str(file)) == 0
    written = json.loads(file.read_text())
    (rate,) = written["rates"]
    assert set(rate["outcomes"]) == {"200"}
    assert written["needed"] == pytest.approx(100 / written["sustained"], abs=1)
    assert {"decode", "infer", "total"} <= set(rate["stages_ms"])
    assert "sustained: " in capsys.readouterr().out


def test_objective_that_no_answer_meets_is_status_1(url, capsys):
    assert bench(url, "--rate", "2", "--objective", "1ms") == 1
    assert "sustained: 0 requests a second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "none"), "a request alone is answered with 404"),
        (("--pictures", "/nothing"), "/nothing"),
        (("--pictures", "pyproject.toml"), "a request alone is answered with 415"),
    ],
)
def test_benchmark_that_would_measure_refusals_is_told(url, words, told, capsys):
    assert bench(url, "--rate", "2", *words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "localhost:8000"])
def test_address_without_a_server_is_told(address, capsys):
    assert bench(address, "--rate", "2") == 2
    assert address in capsys.readouterr().err


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://[::1:80", "ftp://a", "http://a:99999"])
def test_proxy_that_cannot_be_used_is_told(monkeypatch, capsys, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert bench("http://openset.test", "--rate", "2") == 2
    told = capsys.readouterr().err
    assert told.startswith("openset bench: ")
    assert "proxy" in told


def test_picture_that_may_have_no_end_is_told(url, tmp_path, capsys):
    os.mkfifo(tmp_path / "a.jpg")
    assert bench(url, "--rate", "2", "--pictures", str(tmp_path / "a.jpg")) == 2
    assert "no regular file" in capsys.readouterr().err
