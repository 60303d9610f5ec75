"""Pickles read as records: nothing is called, nothing grows beyond the pickle, whatever it says."""

import argparse
import collections
import contextlib
import datetime
import io
import os
import pickle
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import UnsafeCheckpoint
from models.pickle_records import Name, Record, RecordReader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner)
    ),
)


class AnyName(RecordReader):
    """Records every name."""

    def name(self, module, name):
        return Name(module, name)


@given(VALUES, st.integers(3, 5))  # the older ones write bytes as a call
def test_plain_values_are_read_as_they_were_written(value, protocol):
    assert AnyName().read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_object_is_a_record_of_its_name_and_state(protocol):
    found = AnyName().read(pickle.dumps(argparse.Namespace(lr=0.1, names=["a"]), protocol))
    assert isinstance(found, Record)
    assert found.state == {"lr": 0.1, "names": ["a"]}
    assert "argparse.Namespace" in {str(found.name), *map(str, found.arguments)}


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 2), collections.OrderedDict(a=1), {1, 2}, Path("/tmp")])
def test_common_objects_are_read(value):
    for protocol in range(6):
        AnyName().read(pickle.dumps(value, protocol))


def test_name_is_refused_unless_a_reader_takes_it():
    with pytest.raises(UnsafeCheckpoint, match=r"(posix|nt)\.system is not part of a tensor; nothing was executed"):
        RecordReader().read(pickle.dumps(os.system))


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\x0f.",
    "text of 2**62 bytes": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a.",
    "bytes of 2**62 bytes": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"a.",
    "frame of 2**62 bytes": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
    "tuples of tuples": b"\x80\x02N" + b"2\x86" * 2000 + b".",
    "tuples of tuples as a key": b"\x80\x02}N" + b"2\x86" * 200 + b"Ns.",
    "lists of lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "endless pops": b"\x80\x02N" + b"20" * 100_000 + b".",
    "extension registry": b"\x80\x02\x82\x01.",
    "buffers out of band": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bomb_costs_no_more_than_its_length(data):
    tracemalloc.start()
    started = time.monotonic()
    with contextlib.suppress(ValueError, pickle.UnpicklingError):
        AnyName().read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert time.monotonic() - started < 20


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(ValueError, pickle.UnpicklingError, UnsafeCheckpoint):
        AnyName().read(b"\x80\x02" + data)


@given(VALUES, st.data())
def test_damaged_pickle_is_read_or_refused(value, data):
    whole = bytearray(pickle.dumps({"a": value, "b": argparse.Namespace(c=value)}, 2))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError, pickle.UnpicklingError, UnsafeCheckpoint):
        AnyName().read(bytes(whole))


def test_one_pickle_after_the_other_is_read_from_a_file():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps(2) + b"rest")
    assert [AnyName().read(file), AnyName().read(file), file.read()] == [1, 2, b"rest"]
