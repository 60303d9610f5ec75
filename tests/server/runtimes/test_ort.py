"""Which provider runs a graph; and its buffers on a GPU, by a stand-in that computes on the processor."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from server.bundle import Bundle
from server.contract.manifest import BundleError
from server.memory.pool import PoolExhausted
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import ModelRegistry, open_bundles
from server.runtimes.device import Device
from server.settings import Settings, SettingsError, read_settings
from server.telemetry.metrics import Metrics
from tests.server.fake_provider import CPU, CUDA, Provider

CLIP, DETECTOR = BUNDLED / "clip-mini", BUNDLED / "grounding-dino-mini"


@pytest.fixture
def provider(monkeypatch, binding):
    return Provider(monkeypatch, binding)


def detections(bundle, sizes=((64, 48), (64, 48))):
    pixels = [bundle.preprocess(Image.effect_noise(size, 90).convert("RGB")) for size in sizes]
    prompts = [bundle.prompts.from_labels(labels) for labels in (["dog", "red car"], ["cat"])]
    return pixels, prompts, bundle.run_detector(pixels, prompts, bundle.encode_prompts(prompts))


def test_bundle_runs_on_the_cpu_by_default(provider):
    bundle = Bundle(CLIP)
    assert (set(bundle.providers.values()), bundle.gpu, provider.sessions) == ({CPU}, None, [])


@pytest.mark.parametrize("name", ["auto", "cuda:0"])
def test_gpu_gives_the_answers_of_the_processor(provider, binding, name):
    bundle = Bundle(DETECTOR, device=Device(name), threads=1)
    assert set(bundle.providers.values()) == {CUDA}
    bundle.check_canary()
    pixels, prompts, got = detections(bundle)
    there = Bundle(DETECTOR, threads=1)
    wanted = there.run_detector(pixels, prompts, there.encode_prompts(prompts))
    for (scores, boxes), (wanted_scores, wanted_boxes) in zip(got, wanted, strict=True):
        np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)
        np.testing.assert_allclose(boxes, wanted_boxes, atol=1e-6)


def test_inputs_are_bound_to_pooled_memory_that_the_next_run_takes_again(provider):
    bundle = Bundle(CLIP, device=Device("cuda:0"), threads=1)
    images = [np.ones((3, 64, 64), np.float32)] * 2
    first = bundle.embed_images(images)
    second = bundle.embed_images(images)
    session = next(session for session in provider.sessions if session.bound)
    assert session.bound[0] == session.bound[1]
    np.testing.assert_array_equal(first, second)
    stats = bundle.gpu.buffers.stats()
    assert (stats.in_use, bundle.gpu.staging.stats().in_use) == (0, 0)
    assert stats.reserved > 0


def test_registry_assembles_batches_in_page_locked_memory(provider):
    registry = ModelRegistry(Settings(bundle=(CLIP,), threads=1), Metrics())
    (bundle,) = open_bundles(Settings(bundle=(CLIP,), threads=1))
    registry.load([bundle])
    with bundle.pool.lease((10,), np.float32, owner="test") as array:
        assert bundle.gpu.pinned.owns(array.ctypes.data, array.nbytes)
    shown = registry._metrics.exposition().decode()
    assert 'openset_pool_reserved_bytes{pool="cuda:0"}' in shown
    registry.close()


def test_arena_grows_by_what_is_asked_up_to_the_limit(provider):
    Bundle(CLIP, device=Device("cuda:0", memory_bytes=2**20))
    given = provider.sessions[0].given
    assert given["arena_extend_strategy"] == "kSameAsRequested"
    assert given["gpu_mem_limit"] == str(2**20)


def test_graphs_of_all_bundles_share_one_arena(provider):
    for folder in (CLIP, DETECTOR):
        Bundle(folder, device=Device("cuda:0", memory_bytes=2**30), threads=1)
    same_as_requested = 1
    assert provider.arenas == [(0, 2**30, same_as_requested)]
    assert len(provider.sessions) > 3
    for session in provider.sessions:
        assert session.options.get_session_config_entry("session.use_env_allocators") == "1"


def test_graphs_take_turns_in_their_arena(provider):
    bundle = Bundle(CLIP, device=Device("cuda:0"), threads=1)
    images = [np.ones((3, 64, 64), np.float32)]
    wanted, running, together = bundle.embed_images(images), [], []

    def watch():
        running.append(1)
        together.append(len(running))
        time.sleep(0.01)

    provider.before_run, provider.after_run = watch, running.pop
    with ThreadPoolExecutor(6) as threads:
        runs = [lambda: bundle.embed_images(images), lambda: bundle.embed_texts(["a dog"])] * 3
        answers = [future.result() for future in [threads.submit(run) for run in runs]]
    assert together == [1] * 6
    for answer in answers[::2]:
        np.testing.assert_allclose(answer, wanted, atol=1e-6)


def test_runtime_that_shares_no_arena_leaves_each_graph_its_own(monkeypatch, binding, caplog):
    provider = Provider(monkeypatch, binding, no_arena=True)
    bundle = Bundle(CLIP, device=Device("cuda:0"), threads=1)
    warning = "each graph on cuda:0 has an arena of its own, since none can be shared: there is no arena"
    assert caplog.text.count(warning) == 1
    for session in provider.sessions:
        with pytest.raises(RuntimeError, match="does not have configuration"):
            session.options.get_session_config_entry("session.use_env_allocators")
    assert bundle.embed_images([np.ones((3, 64, 64), np.float32)]).shape[0] == 1


def test_demanded_gpu_without_a_provider_is_refused_with_what_to_install():
    with pytest.raises(BundleError, match=r"device cuda:0 cannot be used for .*no CUDA provider.*\[gpu\]"):
        Bundle(CLIP, device=Device("cuda:0"))


def test_demanded_gpu_that_is_not_there_is_refused(provider):
    with pytest.raises(BundleError, match=r"device cuda:3 cannot be used for .*the driver shows no GPU 3"):
        Bundle(CLIP, device=Device("cuda:3"))


def test_demanded_gpu_whose_libraries_do_not_load_is_refused(monkeypatch, binding):
    Provider(monkeypatch, binding, loads=False)
    with pytest.raises(BundleError, match="could not load its CUDA provider"):
        Bundle(CLIP, device=Device("cuda:0"))


def test_without_a_provider_auto_is_the_processor_and_says_nothing(caplog):
    bundle = Bundle(CLIP, device=Device("auto"))
    assert (set(bundle.providers.values()), caplog.records) == ({CPU}, [])


@pytest.mark.parametrize("fault", ["libraries", "driver", "binding", "memory"])
def test_auto_falls_back_to_the_processor_with_a_warning(monkeypatch, binding, caplog, fault):
    Provider(monkeypatch, binding, loads=fault != "libraries")
    if fault == "driver":
        monkeypatch.setattr("server.runtimes.ort.gpu_at", lambda ordinal: None)
    elif fault == "binding":
        binding.failing["cudaSetDevice"] = 35
    elif fault == "memory":
        binding.failing["cudaStreamCreateWithFlags"] = 2
    with caplog.at_level(logging.WARNING):
        bundle = Bundle(CLIP, device=Device("auto"), files={"image_encoder.onnx", "text_encoder.onnx"})
    assert CPU in bundle.providers.values()
    assert "runs on the CPU: " in caplog.text


def test_run_without_memory_exhausts_the_pool(provider, binding):
    bundle = Bundle(CLIP, device=Device("cuda:0"), threads=1)
    image = [np.ones((3, 64, 64), np.float32)]

    def fail():
        raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1")

    provider.before_run = fail
    with pytest.raises(PoolExhausted, match="cuda:0 has no memory to run image_encoder"):
        bundle.embed_images(image)
    binding.failing["cudaMallocAsync"] = 2
    provider.before_run = lambda: None
    bundle.embed_images(image)  # the pool trims and tries once more
    assert bundle.gpu.buffers.stats().in_use == 0


def test_other_failures_are_told_as_they_are_and_leave_nothing_in_use(provider):
    bundle = Bundle(CLIP, device=Device("cuda:0"), threads=1)

    def fail():
        raise RuntimeError("a kernel failed")

    provider.before_run = fail
    with pytest.raises(RuntimeError, match="a kernel failed"):
        bundle.embed_images([np.ones((3, 64, 64), np.float32)])
    assert (bundle.gpu.buffers.stats().in_use, bundle.gpu.staging.stats().in_use) == (0, 0)


@pytest.mark.parametrize("value", ["gpu", "cuda", "cuda:x", "cuda:-1"])
def test_device_that_is_none_is_refused_with_those_that_are(value):
    with pytest.raises(SettingsError, match=r"--device=.* is refused.*cuda:N"):
        read_settings(device=value)
