"""Contexts and CUDA graphs of one engine, on stand-ins that compute for real."""

import logging

import numpy as np
import pytest

from server.runtimes import engine_stream


def executions(binding):
    """Of each run of an engine so far: "captured" or "plain"."""
    return ["captured" if call[3] else "plain" for call in binding.calls if call[0] == "execute"]


def test_shapes_that_come_again_are_captured_and_replayed(encoder, trt, binding, wanted, images):
    for _ in range(6):
        np.testing.assert_allclose(encoder.embed_images(images(2)), wanted(2), atol=1e-6)
    assert executions(binding) == ["plain", "plain", "captured"]
    assert binding.names().count("cudaGraphLaunch") == 4
    assert len(trt.contexts) == 2


def test_captured_shapes_are_replayed_between_others(encoder, trt, binding, wanted, images):
    for _ in range(4):
        encoder.embed_images(images(2))
    for count in (1, 2, 3, 2, 1, 2, 4, 2):
        np.testing.assert_allclose(encoder.embed_images(images(count)), wanted(count), atol=1e-6)
    assert binding.names().count("cudaGraphLaunch") == 2 + 4


def test_graph_is_dropped_where_buffers_have_moved(encoder, binding, wanted, images):
    for _ in range(4):
        encoder.embed_images(images(2))
    assert len(binding.graphs) == 1
    encoder.gpu.buffers.trim()
    del binding.calls[:]
    for _ in range(3):
        np.testing.assert_allclose(encoder.embed_images(images(2)), wanted(2), atol=1e-6)
    assert executions(binding) == ["plain", "captured"]
    assert len(binding.graphs) == 1


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_engine_that_cannot_be_captured_runs_all_the_same(encoder, binding, wanted, caplog, call, images):
    encoder.embed_images(images(2))
    encoder.embed_images(images(2))
    binding.failing[call] = 900
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            np.testing.assert_allclose(encoder.embed_images(images(2)), wanted(2), atol=1e-6)
    assert "captures no more CUDA graphs" in caplog.text
    assert "cudaGraphLaunch" not in binding.names()


def test_context_that_says_it_cannot_be_captured_is_not(encoder, trt, binding, monkeypatch, images):
    monkeypatch.setattr("tests.server.fake_trt._Context.is_stream_capturable", lambda *_: False, raising=False)
    for _ in range(4):
        encoder.embed_images(images(2))
    assert "cudaStreamBeginCapture" not in binding.names()


def test_graphs_have_a_bound(encoder, trt, monkeypatch, wanted, images):
    monkeypatch.setattr(engine_stream, "MAX_GRAPHS", 2)
    for _ in range(4):
        for count in (1, 2, 3, 4):
            np.testing.assert_allclose(encoder.embed_images(images(count)), wanted(count), atol=1e-6)
    assert len(trt.contexts) == 1 + 2


def test_shapes_remembered_have_a_bound(encoder, trt, monkeypatch, images):
    monkeypatch.setattr(engine_stream, "MAX_SEEN", 2)
    for _ in range(2):
        for count in (1, 2, 3, 4):
            encoder.embed_images(images(count))
    assert len(trt.contexts) == 1


def test_without_memory_for_another_context_the_first_runs_everything(encoder, trt, wanted, images):
    trt.context_limit = 1
    for _ in range(4):
        np.testing.assert_allclose(encoder.embed_images(images(2)), wanted(2), atol=1e-6)
    assert len(trt.contexts) == 1
