"""The machine that reads pickles of tensors: PyTorch's own are read, all else is refused and never called."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from models import UnsafeCheckpoint
from models.tensor_pickle import ObjectRecord, PickleFault, StorageRecord, TensorRecord, load_pickle

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.text(max_size=3), values, max_size=3)
        | st.tuples(values, values)
    ),
    max_leaves=12,
)


def load(data):
    return load_pickle(io.BytesIO(data))


@given(plain, st.sampled_from([0, 1, 2, 3, 4, 5]))
def test_plain_values_are_what_python_reads(value, protocol):
    assert load(pickle.dumps(value, protocol)) == value


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def test_what_torch_saves_becomes_records():
    state = collections.OrderedDict(w=torch.ones(2, 3).T, p=torch.nn.Parameter(torch.ones(2)))
    vars(state)["_metadata"] = {"": {"version": 1}}
    arguments = argparse.Namespace(lr=0.1)
    found = load(saved({"model": state, "args": arguments, "size": torch.Size([3]), "type": torch.float16, "epoch": 3}))
    tensor = found["model"]["w"]
    assert isinstance(tensor, TensorRecord)
    assert (tensor.offset, tensor.shape, tensor.stride, tensor.storage.count) == (0, (3, 2), (1, 3), 6)
    assert isinstance(found["model"]["p"], TensorRecord)
    assert isinstance(found["args"], ObjectRecord)
    assert found["args"].attributes == {"lr": 0.1}
    assert (found["size"], found["epoch"]) == ((3,), 3)


def test_storages_are_listed_by_key():
    storages = {}
    load_pickle(io.BytesIO(saved([torch.ones(2), torch.zeros(3, dtype=torch.int64)])), storages)
    assert [(key, record.dtype.kind, record.count) for key, record in storages.items()] == [
        ("0", "f", 2),
        ("1", "i", 3),
    ]
    assert all(isinstance(record, StorageRecord) for record in storages.values())


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function", [os.mkdir, eval, getattr, setattr, torch.load, torch.tensor, pickle.loads, dict, type]
)
def test_call_of_anything_is_refused_by_name(tmp_path, function, protocol):
    victim = tmp_path / "executed"
    with pytest.raises(UnsafeCheckpoint, match=rf"{function.__name__}.*nothing was executed"):
        load(pickle.dumps({"a": Call(function, str(victim))}, protocol))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "pickle exhausted"),
        (b".", "damaged"),
        (b"N", "pickle exhausted"),
        (b"(.", "mark"),
        (b"h\x05.", "5"),
        (b"NNs.", "damaged|sets items"),
        (b"}(]Nu.", "a key is a list"),
        (b"}()Nu.", "a key is a tuple"),
        (b"}(Nu.", "damaged"),
        (b"Na.", "damaged|appends"),
        (b"N)R.", "calls NoneType"),
        (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
        (b"ctorch\nFloatStorage\n)\x81.", "object of torch.FloatStorage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "sets the state"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.", "storage is a NoneType"),
        (b"ctorch._utils\n_rebuild_parameter\n(NtR.", "parameter is a NoneType"),
        (b"NQ.", "no storage"),
        (b"(S'storage'\nNS'0'\nS'cpu'\nI4\ntQ.", "no known type"),
        (b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\nK\x01tQ.", "no storage"),
        (b"I" + b"9" * 5000 + b"\n.", "limit"),
    ],
)
def test_damaged_pickle_is_refused(text, fault):
    with pytest.raises(PickleFault, match=fault):
        load(text)


@pytest.mark.parametrize("operation", [b"(ios\nmkdir\n.", b"(cos\nmkdir\no.", b"\x82\x01.", b"P0\n.", b"\x8f.", b"2."])
def test_operation_that_no_tensor_needs_is_refused(operation):
    with pytest.raises(UnsafeCheckpoint):
        load(operation)


def test_far_number_of_the_memo_takes_no_memory():
    assert load(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.") is None


def test_nesting_as_deep_as_the_file_takes_no_stack():
    deep = load(b"N" + b"\x85" * 300_000 + b".")
    assert type(deep) is tuple
    with pytest.raises(PickleFault, match="a key is a tuple"):
        load(b"}N" + b"\x85" * 300_000 + b"Ns.")


@given(st.binary(max_size=60))
@example(b"\x80\x02cos\nsystem\nU\x02ls\x85R.")
def test_any_bytes_end_in_a_value_or_a_refusal(data):
    with contextlib.suppress(PickleFault, UnsafeCheckpoint):
        load(data)
