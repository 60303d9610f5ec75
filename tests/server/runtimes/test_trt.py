"""Engines of both flavours: buffers, order, profiles, streams and faults, on stand-ins that compute for real."""

import threading

import numpy as np
import pytest
from PIL import Image

from server.bundle import Bundle
from server.contract.manifest import BundleError, read_manifest
from server.memory.pool import PoolExhausted
from server.registry.model_cache import BUNDLED
from server.runtimes import engine_stream
from server.runtimes.device import Device
from server.runtimes.engine_stream import EngineFailed
from server.runtimes.trt import open_engine
from tests.server.engine_bundles import with_engines
from tests.server.fake_cuda import install
from tests.server.fake_trt import install_trt

CLIP, DETECTOR, AUTO = BUNDLED / "clip-mini", BUNDLED / "grounding-dino-mini", Device("auto")
SIDE, ENGINE = 64, "image_encoder.tensorrt.engine"


def detections(bundle, labels, count=2):
    picture = Image.radial_gradient("L").convert("RGB")
    pixels = [bundle.preprocess(picture)] * count
    prompts = [bundle.prompts.from_labels(labels)] * count
    return bundle.run_detector(pixels, prompts, bundle.encode_prompts(prompts))


def in_use(bundle):
    return bundle.gpu.buffers.stats().in_use, bundle.gpu.staging.stats().in_use


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt-rtx"])
def test_engines_give_the_answers_of_the_graphs(monkeypatch, binding, tmp_path, rtx):
    install_trt(monkeypatch, binding, rtx=rtx)
    runtime = "tensorrt-rtx" if rtx else "tensorrt"
    bundle = Bundle(with_engines(DETECTOR, tmp_path / "b", runtime=runtime), device=AUTO)
    assert set(bundle.providers.values()) == {runtime}
    bundle.check_canary()
    graphs = Bundle(DETECTOR, threads=1)
    for labels in (["dog"], ["dog", "red bicycle", "small house", "cat", "boat", "guitar", "bee", "key"]):
        for got, right in zip(detections(bundle, labels), detections(graphs, labels), strict=True):
            np.testing.assert_allclose(got[0], right[0], atol=1e-6)
            np.testing.assert_allclose(got[1], right[1], atol=1e-6)
    assert in_use(bundle) == (0, 0)


def test_copies_and_run_are_in_the_order_of_one_stream(encoder, binding, images):
    encoder.embed_images(images(1))
    del binding.calls[:]
    encoder.embed_images(images(1))
    interesting = ("cudaMemcpyAsync", "cudaStreamWaitEvent", "execute", "cudaEventRecord", "cudaStreamSynchronize")
    calls = [call for call in binding.calls if call[0] in interesting]
    assert [call[0] for call in calls] == [
        "cudaMemcpyAsync", "cudaStreamWaitEvent", "execute", "cudaEventRecord", "cudaMemcpyAsync",
        "cudaStreamSynchronize",
    ]  # fmt: skip
    there, wait, run, record, back, synchronize = calls
    assert (there[4], back[4]) == (1, 2)
    assert {there[5], wait[1], run[2], record[2], back[5], synchronize[1]} == {run[2]}


def test_buffers_of_one_run_are_those_of_the_next(encoder, binding, images):
    encoder.embed_images(images(2))
    taken = binding.names().count("cudaMallocAsync"), binding.names().count("cudaHostAlloc")
    for _ in range(5):
        encoder.embed_images(images(2))
    assert (binding.names().count("cudaMallocAsync"), binding.names().count("cudaHostAlloc")) == taken


def test_profile_is_chosen_by_the_shape(trt, tmp_path):
    bundle = Bundle(with_engines(DETECTOR, tmp_path / "b", parts=["detector"]), device=AUTO)
    (context,) = trt.contexts
    detections(bundle, ["dog"])
    detections(bundle, ["dog", "red bicycle", "small house", "cat", "boat", "guitar", "bee", "key"])
    assert [entry for entry in context.log if entry[0] == "profile"] == [("profile", 0), ("profile", 1)]


def test_shape_that_no_profile_has_is_refused_by_name(encoder, images):
    with pytest.raises(ValueError, match=r"image_encoder accepts no pixel_values \[9, 3, 64, 64\]: none of its 2"):
        encoder.embed_images(images(9))
    assert in_use(encoder) == (0, 0)


def test_tensorrt_rtx_captures_its_own_graphs(monkeypatch, binding, tmp_path, images):
    trt = install_trt(monkeypatch, binding, rtx=True)
    bundle = Bundle(with_engines(CLIP, tmp_path / "clip", runtime="tensorrt-rtx", parts=["image_encoder"]), device=AUTO)
    for _ in range(4):
        bundle.embed_images(images(2))
    assert [context.config.cuda_graph_strategy for context in trt.contexts] == [1]
    assert "cudaStreamBeginCapture" not in binding.names()


def test_batch_without_room_exhausts_the_pool_and_half_of_it_runs(monkeypatch, tmp_path, images):
    monkeypatch.setattr("server.runtimes.gpu._opened", {})
    monkeypatch.setattr("server.runtimes.device.gpu_at", {0: ("NVIDIA RTX 4090", "8.9")}.get)
    image = 3 * SIDE * SIDE * 4
    binding = install(monkeypatch, device_bytes=4 * image)
    install_trt(monkeypatch, binding)
    bundle = Bundle(with_engines(CLIP, tmp_path / "c", parts=["image_encoder"]), device=AUTO)
    with pytest.raises(PoolExhausted, match="cudaMallocAsync failed: cudaErrorMemoryAllocation"):
        bundle.embed_images(images(4))
    assert bundle.embed_images(images(2)).shape[0] == 2
    assert in_use(bundle) == (0, 0)


@pytest.mark.parametrize("call", ["cudaMallocAsync", "cudaHostAlloc"])
def test_allocation_that_fails_once_is_tried_again_after_trimming(encoder, binding, wanted, call, images):
    encoder.embed_images(images(1))
    binding.failing[call] = 2
    np.testing.assert_allclose(encoder.embed_images(images(2)), wanted(2), atol=1e-6)
    assert binding.failing == {}


@pytest.mark.parametrize(
    ("reason", "kind"), [("Cuda Runtime (out of memory)\n", PoolExhausted), ("an illegal access", EngineFailed)]
)
def test_failed_run_tells_the_reason_and_the_next_one_works(encoder, trt, wanted, reason, kind, images):
    trt.fail_run, trt.reason = lambda *_: True, reason
    with pytest.raises(kind, match=f"image_encoder: running failed: {reason.split()[0]}"):
        encoder.embed_images(images(1))
    assert in_use(encoder) == (0, 0)
    trt.fail_run = None
    np.testing.assert_allclose(encoder.embed_images(images(1)), wanted(1), atol=1e-6)


def test_memory_of_a_failed_run_is_given_back_only_when_its_copies_are_done(encoder, trt, binding, images):
    trt.fail_run, trt.reason = lambda *_: True, "failed"
    with pytest.raises(EngineFailed):
        encoder.embed_images(images(1))
    assert binding.names()[-1] == "cudaStreamSynchronize"


def test_second_stream_is_opened_only_where_two_runs_overlap(encoder, trt, binding, wanted, images):
    session = encoder._sessions["image_encoder"]
    together, answers = threading.Barrier(2), {}
    compute = engine_stream.EngineStream.compute

    def meet(self, *given):
        together.wait(10)
        compute(self, *given)

    def run(count):
        answers[count] = encoder.embed_images(images(count))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_stream.EngineStream, "compute", meet)
        threads = [threading.Thread(target=run, args=(count,)) for count in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({call[2] for call in binding.calls if call[0] == "execute"}) == 2
    for count in (1, 2):
        np.testing.assert_allclose(answers[count], wanted(count), atol=1e-6)
    for _ in range(3):
        encoder.embed_images(images(1))
    assert len(session._idle) == 2


def test_eight_threads_get_their_own_answers_from_two_streams(encoder, wanted, images):
    right = {count: wanted(count) for count in (1, 2, 3)}
    faults = []

    def run(number):
        try:
            for place in range(6):
                count = 1 + (number + place) % 3
                np.testing.assert_allclose(encoder.embed_images(images(count)), right[count], atol=1e-6)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(encoder._sessions["image_encoder"]._idle) <= 2
    assert in_use(encoder) == (0, 0)


def test_engine_in_half_precision_takes_and_gives_float32(trt, tmp_path, wanted, images):
    halves = {"pixel_values": "float16", "image_embeds": "float16"}
    bundle = Bundle(with_engines(CLIP, tmp_path / "c", parts=["image_encoder"], types=halves), device=AUTO)
    got = bundle.embed_images(images(2))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted(2), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"types": {"image_embeds": "bf16"}}, "image_embeds has a type that numpy lacks"),
        ({"on_host": ["pixel_values"]}, "pixel_values is read on the host"),
        ({"activations": 1 << 40}, "cudaMallocAsync failed: cudaErrorMemoryAllocation"),
    ],
)
def test_engine_that_cannot_be_served_gives_way_when_it_is_opened(trt, tmp_path, options, reason):
    folder = with_engines(CLIP, tmp_path / "c", parts=["image_encoder"], **options)
    assert reason in refused_engine(Bundle(folder, device=AUTO))
    with pytest.raises(BundleError, match=reason):
        Bundle(folder, device=AUTO, files={ENGINE, "text_encoder.onnx"})


def test_output_whose_shape_is_known_only_afterwards_is_refused(trt, tmp_path, images):
    bundle = Bundle(with_engines(CLIP, tmp_path / "c", unknown=["image_embeds"], parts=["image_encoder"]), device=AUTO)
    with pytest.raises(EngineFailed, match="inferring the shape of image_embeds before running failed"):
        bundle.embed_images(images(1))


def test_engine_without_memory_for_a_context_is_refused(trt, binding, tmp_path):
    trt.context_limit = 0
    bundle = Bundle(with_engines(CLIP, tmp_path / "c", parts=["image_encoder"]), device=AUTO)
    assert "creating an execution context failed: Cuda Runtime" in refused_engine(bundle)
    assert len(binding.streams) == 1, "its stream is gone"


def refused_engine(bundle):
    """Why the graph runs in its engine's place."""
    assert set(bundle.providers.values()) == {"CPUExecutionProvider"}
    assert bundle.embed_images([np.ones((3, SIDE, SIDE), np.float32)]).shape[0] == 1
    return bundle.refused[ENGINE]


def engine_of(folder, **record):
    artefact = read_manifest(folder).artefacts[-1]
    return artefact.model_copy(update={"engine": artefact.engine.model_copy(update=record)})


def test_engine_of_another_version_is_not_even_read(trt, tmp_path):
    folder = with_engines(CLIP, tmp_path / "c", parts=["image_encoder"])
    with pytest.raises(BundleError, match=r"was built by tensorrt 9\.0, 10\.14\.1 is installed"):
        open_engine(tmp_path / "missing", engine_of(folder, version="9.0"), AUTO)


def test_engine_with_other_profiles_than_its_record_is_refused(trt, tmp_path):
    folder = with_engines(CLIP, tmp_path / "c", parts=["image_encoder"])
    artefact = engine_of(folder, profiles=({"batch": (1, 1, 4)},))
    with pytest.raises(BundleError, match="has 2 profiles, its record 1"):
        open_engine(folder / artefact.file, artefact, AUTO)


@pytest.mark.parametrize(("rtx", "reason"), [(False, "deserialised: magicTag"), (True, "diagnostics are 32")])
def test_file_that_is_no_engine_is_refused(monkeypatch, binding, tmp_path, rtx, reason):
    install_trt(monkeypatch, binding, rtx=rtx)
    folder = with_engines(CLIP, tmp_path / "c", runtime="tensorrt-rtx" if rtx else "tensorrt")
    (tmp_path / "odd").write_bytes(b"no engine")
    with pytest.raises(BundleError, match=reason):
        open_engine(tmp_path / "odd", engine_of(folder), AUTO)


def test_real_tensorrt_rtx_refuses_a_file_that_is_no_engine(binding, tmp_path):
    real = pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt-rtx-cu13")
    folder = with_engines(CLIP, tmp_path / "c", runtime="tensorrt-rtx", version=real.__version__)
    (tmp_path / "odd").write_bytes(b"no engine" * 100)
    with pytest.raises(BundleError, match="no engine that tensorrt-rtx"):
        open_engine(tmp_path / "odd", engine_of(folder), AUTO)


def test_stand_in_has_what_the_real_tensorrt_rtx_has(monkeypatch, binding):
    real = pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt-rtx-cu13")
    from tests.server import fake_trt

    pairs = [
        (fake_trt._Engine, real.ICudaEngine), (fake_trt._Context, real.IExecutionContext),
        (fake_trt._RtxRuntime, real.Runtime), (fake_trt.FakeTrt, real),
    ]  # fmt: skip
    for fake, known in pairs:
        names = [name for name in vars(fake) if not name.startswith("_")]
        assert [name for name in names if not hasattr(known, name)] == []
    assert hasattr(real.ICudaEngine, "num_optimization_profiles")
    assert hasattr(real.IRuntimeConfig, "set_execution_context_allocation_strategy")
    assert hasattr(real.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(real.IExecutionContext, "is_stream_capturable")
    for name in ("USER_MANAGED",):
        assert hasattr(real.ExecutionContextAllocationStrategy, name)
    assert hasattr(real.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert real.ILogger.ERROR <= real.ILogger.ERROR < real.ILogger.WARNING


def test_on_the_processor_the_graph_serves_and_the_engine_says_why_not(trt, tmp_path):
    bundle = Bundle(with_engines(CLIP, tmp_path / "c"), threads=1)
    assert set(bundle.providers.values()) == {"CPUExecutionProvider"}
    assert "the device is cpu" in bundle.refused["image_encoder.tensorrt.engine"]
    assert trt.contexts == []
