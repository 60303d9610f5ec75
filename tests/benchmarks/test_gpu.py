"""The GPU acceptance check on the CPU, and on fakes of CUDA, ONNX Runtime's provider and TensorRT."""

import pytest

from export import ExportError
from server.registry.model_cache import BUNDLED
from tests.benchmarks import gpu
from tests.server.engine_bundles import with_engines
from tests.server.fake_cuda import install
from tests.server.fake_provider import Provider
from tests.server.fake_trt import install_trt

TABLES = ["graphs beside PyTorch", "engines", "load", "latency"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(gpu, "BATCHES", (1, 2))
    monkeypatch.setattr(gpu, "LABELS", (1, 8))
    monkeypatch.setattr(gpu, "RUNS", 1)
    monkeypatch.setenv("OPENSET_WARM_UP", "largest")  # all shapes would take the fakes minutes


def tables(text):
    """The rows of each table, as lists of cells."""
    found = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n\n")
        rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]
        found[title] = rows[2:]
    return found


def test_cpu_fills_every_table(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "WARM_RUNS", 0)
    assert gpu.main(["--device", "cpu", "--requests", "24"]) == 0
    found = tables(capsys.readouterr().out)
    assert list(found) == TABLES
    assert {row[2] for row in found["graphs beside PyTorch"]} == {"CPUExecutionProvider"}
    assert all(row[3].startswith("right") for row in found["graphs beside PyTorch"])
    assert found["engines"] == [["all", "all", "not run: the device is cpu"]]
    assert ["after all", "answered", "23"] in found["load"]
    assert ["after all", "refused: UnsupportedImage", "1"] in found["load"]
    detectors = 2
    assert len(found["latency"]) == 2 + detectors * 2 * 2 * 2  # batches; canvases, prompts and batches


@pytest.mark.slow
def test_fakes_of_a_gpu_fill_every_table(capsys, monkeypatch, tmp_path):
    binding = install(monkeypatch)
    monkeypatch.setattr("server.runtimes.gpu._opened", {})
    for module in ("server.runtimes.device", "server.runtimes.ort", "tests.benchmarks.gpu"):
        monkeypatch.setattr(f"{module}.gpu_at", {0: ("NVIDIA RTX 4090", "8.9")}.get)
    Provider(monkeypatch, binding)
    install_trt(monkeypatch, binding)

    def missing(runtime):
        raise ExportError("tensorrt-rtx cannot be used")

    monkeypatch.setattr(gpu, "load_module", missing)
    folder = with_engines(BUNDLED / "grounding-dino-mini", tmp_path / "with-engines", certified=False)
    _rename(folder, "with-engines")
    assert gpu.main(["--device", "cuda:0", "--requests", "40", "--bundle", str(folder)]) == 0
    found = tables(capsys.readouterr().out)
    assert {row[2] for row in found["graphs beside PyTorch"]} == {"CUDAExecutionProvider"}
    assert ["with-engines", "detector.tensorrt.engine", "runs and agrees"] in found["engines"]
    assert ["clip-mini", "tensorrt-rtx", "not built: tensorrt-rtx cannot be used"] in found["engines"]
    pools = [row for row in found["load"] if row[0] == "after all" and row[1].startswith("pool cuda:0")]
    assert pools[0][2].split(", ")[1] == "0.0", "nothing is in use when all is done"
    assert ["after all", "answered", "39"] in found["load"]


def test_failing_check_leaves_the_others_and_gives_exit_status_1(capsys, monkeypatch):
    def fail(*given):
        raise RuntimeError("no answer")
        yield

    monkeypatch.setattr(gpu, "parity", fail)
    monkeypatch.setattr(gpu, "load", fail)
    monkeypatch.setattr(gpu, "latency", lambda *given: iter([("a", "b", "1.00 ms", "2.00 ms")]))
    assert gpu.main(["--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: RuntimeError: no answer" in out
    assert tables(out)["latency"] == [["a", "b", "1.00 ms", "2.00 ms"]]


def _rename(folder, name):
    from server.contract.manifest import read_manifest, write_manifest

    write_manifest(folder, read_manifest(folder).model_copy(update={"name": name}))
