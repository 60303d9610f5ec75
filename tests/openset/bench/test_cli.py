"""`openset bench` against a server."""

import asyncio
import json
import os

import httpx
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


def answering(monkeypatch, respond):
    """Servers of the benchmark answer as `respond` does."""
    made = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **given: made(**given, transport=httpx.MockTransport(respond)))


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[" * 100_000, b"{}", b'{"model": 1}', b"\xff\xfe\x00"])
def test_server_that_is_another_is_told(monkeypatch, capsys, body):
    answering(monkeypatch, lambda _: httpx.Response(200, content=body))
    assert bench("http://openset.test", "--rate", "2") == 2
    assert "http://openset.test is no Openset: it answers " in capsys.readouterr().err


def test_answer_without_end_is_an_error_as_another(monkeypatch, capsys):
    async def endless():
        while True:
            yield bytes(2**20)

    answering(monkeypatch, lambda _: httpx.Response(200, content=endless()))
    assert bench("http://openset.test", "--rate", "2") == 2
    assert "an answer has more than 33554432 bytes" in capsys.readouterr().err


def test_answer_that_never_ends_is_an_error_as_another(monkeypatch, capsys):
    async def dripping():
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    monkeypatch.setattr("openset.bench.traffic.TIMEOUT_S", 0.3)
    answering(monkeypatch, lambda _: httpx.Response(200, content=dripping()))
    assert bench("http://openset.test", "--rate", "2") == 2
    assert "an answer is not whole after 0.3 s" in capsys.readouterr().err


def test_plan_is_made_of_what_answers_tell_of_their_runs(url, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert bench(url, "--rate", "2,4", "--wanted", "20", "--json", str(file)) == 0
    simulated = json.loads(file.read_text())["simulated"]
    assert simulated["costs"]["max_batch"] == 3, "of the bundle"
    assert sum(shape["share"] for shape in simulated["costs"]["shapes"].values()) == pytest.approx(1, abs=1e-3)
    assert set(simulated["latency_ms"]) == set(simulated["pace"]) == {"2", "4"}
    assert "at most 3 together" in capsys.readouterr().out


def test_server_that_tells_nothing_of_its_runs_is_not_simulated(monkeypatch, capsys):
    answering(monkeypatch, lambda _: httpx.Response(200, json={"model": {"name": "m"}}))
    assert bench("http://openset.test", "--rate", "5", "--wanted", "20") == 0
    assert "no simulation" in capsys.readouterr().out
