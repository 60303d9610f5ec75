"""Memory that engines and graphs share on a GPU, and a GPU that is lost: on stand-ins.

An error that CUDA repeats for ever ends the worker at once; any other fails one run.
"""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.bundle import Bundle
from server.memory.cuda import CudaError, DeviceLost
from server.memory.pool import PoolExhausted
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import open_bundles
from server.runtimes.device import AUTO, Device
from server.runtimes.gpu import open_gpu
from server.settings import Settings
from tests.server.engine_bundles import with_engines
from tests.server.fake_provider import Provider
from tests.server.fake_trt import ACTIVATION_BYTES, install_trt
from tests.server.fakes import picture

CLIP, DETECTOR = BUNDLED / "clip-mini", BUNDLED / "grounding-dino-mini"
IMAGES = [np.ones((3, 224, 224), np.float32)] * 2
ILLEGAL_ADDRESS, LAUNCH_FAILURE = 700, 719
PROBLEM = "urn:openset:problem:"


class Machine:
    """A GPU whose engines, or graphs, `fail` with whatever is put there while they run."""

    def __init__(self, monkeypatch, binding, folder, *, runtime):
        self.binding = binding
        self.fail = lambda: None
        self.folders = {CLIP: CLIP, DETECTOR: DETECTOR}
        if runtime == "graph":
            Provider(monkeypatch, binding).before_run = lambda: self.fail()
        else:
            trt = install_trt(monkeypatch, binding)
            trt.fail_run = lambda *_: self.fail()
            self.folders = {source: with_engines(source, folder / source.name) for source in self.folders}

    def no_memory(self):
        raise PoolExhausted("the device has none")

    def open(self):
        return Bundle(self.folders[CLIP], device=AUTO, threads=1)

    def settings(self, *, only=None, max_wait_ms=0):
        folders = (self.folders[only],) if only else tuple(self.folders.values())
        settings = Settings(bundle=folders, threads=1, decode_threads=2, warm_up="largest", max_batch=4)
        return settings.model_copy(update={"max_wait_ms": max_wait_ms})  # longer than is accepted


@pytest.fixture(params=["engine", "graph"])
def machine(monkeypatch, binding, tmp_path, request):
    return Machine(monkeypatch, binding, tmp_path, runtime=request.param)


def test_illegal_address_loses_the_gpu_and_nothing_asks_it_again(machine, binding, caplog):
    bundle = machine.open()
    binding.faulty = ILLEGAL_ADDRESS
    with (
        caplog.at_level(logging.CRITICAL),
        pytest.raises(DeviceLost, match=r"cuda:0 is lost .*cudaErrorIllegalAddress"),
    ):
        bundle.embed_images(IMAGES)
    assert "only a new process can use it again; the first error was: " in caplog.text
    del binding.calls[:]
    with pytest.raises(DeviceLost):
        bundle.embed_images(IMAGES)
    assert binding.calls == []


def test_failure_that_the_runtime_tells_in_its_own_words_loses_the_gpu_too(machine, binding):
    bundle = machine.open()

    def fail():
        binding.lost = ILLEGAL_ADDRESS
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    machine.fail = fail
    with pytest.raises(DeviceLost):
        bundle.embed_images(IMAGES)


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaSetDevice"])
def test_error_that_is_told_once_fails_one_run(machine, binding, call):
    bundle = machine.open()
    wanted = bundle.embed_images(IMAGES)
    binding.failing[call] = LAUNCH_FAILURE
    with pytest.raises(CudaError) as failure:
        bundle.embed_images(IMAGES)
    assert not isinstance(failure.value, DeviceLost)
    np.testing.assert_allclose(bundle.embed_images(IMAGES), wanted, atol=1e-6)


def test_want_of_memory_does_not_lose_the_gpu(machine):
    bundle = machine.open()
    machine.fail = machine.no_memory
    with pytest.raises(PoolExhausted):
        bundle.embed_images(IMAGES)
    machine.fail = lambda: None
    assert bundle.embed_images(IMAGES).shape[0] == 2
    assert bundle.gpu.lost == ""


def run_detector(bundle):
    pixels, prompts = [np.ones((3, 128, 160), np.float32)], [bundle.prompts.from_labels(["dog"])]
    return bundle.run_detector(pixels, prompts, bundle.encode_prompts(prompts))


def test_engines_take_turns_in_one_block_as_large_as_the_largest_needs(trt, binding, tmp_path, images):
    detector = Bundle(with_engines(DETECTOR, tmp_path / "d"), device=AUTO)
    encoder = Bundle(with_engines(CLIP, tmp_path / "c", activations=50_000), device=AUTO)
    del binding.calls[:]
    run_detector(detector)
    encoder.embed_images(images(1))
    run_detector(detector)
    assert {context.memory for context in trt.contexts if context.memory} == {
        (encoder.gpu.activations._block.address, 2 * 50_000)
    }
    turns = [call[0] for call in binding.calls if call[0] in ("cudaStreamWaitEvent", "execute", "cudaEventRecord")]
    assert turns == ["cudaStreamWaitEvent", "execute", "cudaEventRecord"] * 7


def test_larger_block_replaces_the_one_in_use_only_when_that_is_done(trt, binding, tmp_path, images):
    first = Bundle(with_engines(CLIP, tmp_path / "a", parts=["image_encoder"]), device=AUTO)
    assert first.gpu.activations.nbytes == 2 * ACTIVATION_BYTES
    first.embed_images(images(1))
    before = first.gpu.activations._block.address
    Bundle(with_engines(CLIP, tmp_path / "b", activations=90_000), device=AUTO)
    names = binding.names()
    assert names.index("cudaEventSynchronize") < names.index("cudaFreeAsync")
    assert first.gpu.activations._block.address != before
    np.testing.assert_allclose(first.embed_images(images(1)), Bundle(CLIP).embed_images(images(1)), atol=1e-6)


def test_all_sessions_of_a_device_share_its_pools(trt, tmp_path):
    first = Bundle(with_engines(CLIP, tmp_path / "a"), device=AUTO)
    second = Bundle(with_engines(DETECTOR, tmp_path / "b"), device=Device("cuda:0"))
    assert first.gpu is second.gpu is open_gpu(AUTO)


def test_arrays_in_page_locked_memory_are_not_staged(binding):
    gpu = open_gpu(Device("cuda:0"))
    stream = gpu.cuda.stream()
    lease = gpu.staging.lease((1000,), np.float32, owner="test")
    with gpu.run_buffers("test", stream) as buffers:
        buffers.upload(lease.array, np.float32)
        assert gpu.staging.stats().blocks == {"test": 1}
        buffers.upload(lease.array[::2], np.float32)
        buffers.upload(lease.array.astype(np.float64).astype(np.float32), np.float32)
        assert gpu.staging.stats().blocks == {"test": 3}
        gpu.cuda.synchronize(stream)


def classify(client, count=1, labels=("dog", "cat")):
    files = [("image", ("a.png", picture()))] * count
    return client.post("/classify", files=files, data={"labels": list(labels)})


def detect(client):
    return client.post("/detect", files={"image": ("a.png", picture())}, data={"labels": ["dog"]})


def kind(response):
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["type"].removeprefix(PROBLEM)


def served(machine, **options):
    settings = machine.settings(**options)
    return TestClient(create_app(settings, open_bundles(settings)), raise_server_exceptions=False)


def test_lost_gpu_answers_all_that_waits_and_turns_livez_red_for_every_model_on_it(machine, caplog):
    with served(machine) as client, ThreadPoolExecutor(6) as threads:
        assert (classify(client).status_code, detect(client).status_code) == (200, 200)
        machine.binding.faulty = ILLEGAL_ADDRESS
        waiting = [threads.submit(classify, client, 2) for _ in range(6)]
        assert {kind(future.result(60)) for future in waiting} == {(503, "worker-stopped")}
        livez = client.get("/livez")
        assert kind(livez) == (503, "worker-stopped")
        assert "clip-mini, grounding-dino-mini has died or hangs: restart the server" in livez.json()["detail"]
        assert client.get("/readyz").status_code == 503
        assert {kind(classify(client)), kind(detect(client))} == {(503, "worker-stopped")}
    assert "the worker of clip-mini has died" in caplog.text


def test_gpu_lost_while_a_text_is_encoded_is_told_and_turns_livez_red(monkeypatch, binding, tmp_path):
    install_trt(monkeypatch, binding)
    folder = with_engines(CLIP, tmp_path / "clip", parts=["text_encoder"])
    settings = Settings(bundle=(folder,), threads=1, warm_up="largest")
    with TestClient(create_app(settings, open_bundles(settings))) as client:
        assert classify(client).status_code == 200
        binding.faulty = ILLEGAL_ADDRESS
        for labels in (["boat"], ["key"]):
            assert kind(classify(client, labels=labels)) == (503, "worker-stopped")
        assert kind(client.get("/livez")) == (503, "worker-stopped")


def test_want_of_memory_runs_in_halves_then_answers_503_and_the_server_lives(machine, caplog, monkeypatch):
    # An image that is run alone, as a trial or where that was faster, would leave others to wait a minute.
    monkeypatch.setattr("server.inference.batching._Pace.together", lambda _: True)
    binding = machine.binding
    with served(machine, only=CLIP, max_wait_ms=60_000) as client:  # four images are a full batch
        gpu = client.app.state.registry.models[0].bundle.gpu
        wanted = classify(client, 4).json()["results"]

        def leave(free):
            gpu.buffers.trim()
            for stream in binding.streams:
                binding.fence(stream)
            binding.device_bytes = binding.device_used + free

        leave(3 * IMAGES[0].nbytes)
        assert classify(client, 4).json()["results"] == wanted
        assert caplog.text.count("has no room") == 1, "the halves have"
        leave(0)
        refused = classify(client, 4)
        assert kind(refused) == (503, "memory-exhausted")
        assert int(refused.headers["retry-after"]) >= 1
        leave(2**30)
        assert classify(client, 4).json()["results"] == wanted
        assert client.get("/livez").status_code == 200


def test_text_without_room_is_503_and_the_next_is_answered(monkeypatch, binding, tmp_path):
    install_trt(monkeypatch, binding)
    folder = with_engines(CLIP, tmp_path / "clip", parts=["text_encoder"])
    settings = Settings(bundle=(folder,), threads=1, warm_up="largest")
    app = create_app(settings, open_bundles(settings))
    with TestClient(app) as client:
        app.state.registry.models[0].bundle.gpu.buffers.trim()
        binding.device_bytes = 0
        assert kind(classify(client)) == (503, "memory-exhausted")
        binding.device_bytes = 2**30
        assert classify(client).status_code == 200
