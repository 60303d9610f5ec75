"""Texts that do not fit together are encoded in halves; one that does not fit alone is the service's fault."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import MemoryExhausted, WorkerStopped
from server.inference.loaded_model import encode_in_halves, raise_as_fault
from server.memory.cuda import DeviceLost
from server.memory.pool import PoolExhausted


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
    assert short.value.retry_after == 7
    assert "somebody" not in str(short.value)
    with pytest.raises(WorkerStopped, match="the GPU that clip runs on is lost"), raise_as_fault("clip", lambda: 7):
        raise DeviceLost("cuda:0 is lost")
