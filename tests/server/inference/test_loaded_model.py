"""A loaded model: its batched runs, its users, and its texts, encoded in halves where memory is short."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bundle import TEXT_BATCH
from server.contract.text import label_phrases
from server.errors import InferenceFailed, MemoryExhausted, WorkerStopped
from server.inference.batching import BatchLimits
from server.inference.loaded_model import (
    TURN_CHARACTERS,
    LoadedModel,
    ModelInput,
    detector_run,
    encode_in_halves,
    encoder_run,
    raise_as_fault,
    text_parts,
)
from server.memory.cuda import DeviceLost
from server.memory.pool import PoolExhausted
from server.request_context import RequestContext
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import Tracing


def encoder(room):
    """Encodes at most `room` texts at once, each as its length."""
    runs = []

    def run(texts):
        if len(texts) > room:
            raise PoolExhausted("no room")
        runs.append(len(texts))
        return np.asarray([[len(text)] for text in texts], np.float32)

    return run, runs


@given(st.lists(st.text(max_size=5), min_size=1, max_size=70), st.integers(1, 80))
def test_every_text_is_encoded_once_in_order_whatever_the_room(texts, room):
    run, runs = encoder(room)
    assert [row.item() for row in encode_in_halves(run, texts)] == [len(text) for text in texts]
    assert sum(runs) == len(texts)
    assert len(runs) == 1 or len(texts) > room


def test_text_that_does_not_fit_alone_is_told_once_all_halves_are_tried():
    with pytest.raises(PoolExhausted, match="no room"):
        encode_in_halves(encoder(0)[0], ["a", "b", "c"])


def test_short_memory_says_when_to_come_again_and_a_lost_gpu_that_it_is_lost():
    with pytest.raises(MemoryExhausted, match="encoding a text with clip") as short, raise_as_fault("clip", lambda: 7):
        raise PoolExhausted("no room for somebody else")
    assert short.value.headers == {"Retry-After": "7"}
    assert "somebody" not in str(short.value)
    with pytest.raises(WorkerStopped, match="the GPU that clip runs on is lost"), raise_as_fault("clip", lambda: 7):
        raise DeviceLost("cuda:0 is lost")


@pytest.fixture
def load():
    models = []

    def start(bundle):
        metrics = Metrics().of(bundle.manifest.name)
        models.append(LoadedModel(bundle, None, limits=BatchLimits(8, 4), metrics=metrics, tracing=Tracing()))
        return models[-1]

    yield start
    for model in models:
        model.close(until=time.monotonic() + 20)


def inputs(detector, prompts, value, **options):
    features = detector.encode_prompts(prompts)
    return ModelInput(np.full((3, 32, 32), value, np.float32), tuple(prompts), tuple(features), **options)


def test_detector_runs_every_pass_of_a_batch_on_images_encoded_once(detector):
    prompts = detector.prompts.label_passes(["a dog", "a cat"], max_passes=1)
    run, bucket = detector_run(detector)
    batch = [inputs(detector, prompts * 2, value) for value in (0.2, 0.8)]
    first, second = run(batch)
    assert (detector.runs, detector.passes) == ([2], [2, 2])
    assert [len(output.boxes_cxcywh) for output in (*first, *second)] == [2] * 4
    assert not np.array_equal(first[0].boxes_cxcywh, second[0].boxes_cxcywh)
    assert bucket(batch[0]) == (32, 32, 16, 16)


@pytest.mark.parametrize(("passes", "threshold", "kept"), [(1, 0.85, 2), (2, 0.85, 1), (2, None, 2)])
def test_several_passes_return_only_queries_above_the_threshold(detector, passes, threshold, kept):
    prompts = detector.prompts.label_passes(["a dog", "a cat"], max_passes=1) * passes
    run, _ = detector_run(detector)
    (outputs,) = run([inputs(detector, prompts, 0.5, box_threshold=threshold)])
    assert [len(output.boxes_cxcywh) for output in outputs] == [kept] * passes


def test_numbers_that_are_not_finite_fail_the_run(encoder):
    run, bucket = encoder_run(encoder)
    good = ModelInput(np.ones((3, 16, 16), np.float32))
    assert run([good])[0].shape == (3,)
    assert bucket(good) == (3, 16, 16)
    with pytest.raises(InferenceFailed, match="fake-encoder gave numbers that are not finite"):
        run([ModelInput(np.full((3, 16, 16), np.nan, np.float32))])


def test_texts_are_encoded_in_batches_and_prompts_one_at_a_time(load, encoder, detector):
    async def scene():
        texts = await load(encoder).encode_texts(["r"] * 70, RequestContext())
        prompts = detector.prompts.label_passes(["a dog"], max_passes=1)
        features = await load(detector).encode_prompts(prompts * 3, RequestContext())
        assert (len(texts), len(features)) == (70, 3)

    asyncio.run(scene())
    assert encoder.text_runs == [64, 6]
    assert detector.text_runs == [1, 1, 1]


@given(st.lists(st.integers(0, 3000).map("a".__mul__), max_size=200))
def test_parts_of_texts_are_short_and_lose_none(texts):
    parts = list(text_parts(texts))
    assert [text for part in parts for text in part] == texts
    assert all(parts)
    assert all(len(part) <= TEXT_BATCH and sum(map(len, part)) <= TURN_CHARACTERS for part in parts if len(part) > 1)


@pytest.mark.parametrize("kind", ["sentences", "phrases"])
def test_one_label_waits_for_a_few_parts_of_another_clients_texts(load, encoder, detector, kind):
    order = []

    async def scene():
        model = load(encoder if kind == "sentences" else detector)
        tokenizer = encoder.sentences if kind == "sentences" else detector.prompts
        method = "encode" if kind == "sentences" else "tokenize"
        tokenize = getattr(tokenizer, method)
        setattr(tokenizer, method, lambda part: order.append(part) or time.sleep(0.001) or tokenize(part))

        def asked(client, texts):
            context = RequestContext(client=client)
            if kind == "sentences":
                return asyncio.ensure_future(model.check_texts(texts, context))
            return asyncio.ensure_future(model.tokenize_phrases(label_phrases(texts), context))

        hog = asked("hog", ["a b " * 5] * 5000)
        while len(order) < 3:
            await asyncio.sleep(0)
        single = asked("single", ["mine"])
        await single
        assert not hog.done()
        await hog

    asyncio.run(scene())
    (place,) = [place for place, part in enumerate(order) if len(part) == 1]
    assert place <= 6 < len(order) / 10


def test_model_is_unused_after_its_last_request(load, encoder):
    async def scene():
        model = load(encoder)
        with model.in_use():
            with model.in_use():
                waiting = asyncio.ensure_future(model.unused())
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 20)

    asyncio.run(scene())
