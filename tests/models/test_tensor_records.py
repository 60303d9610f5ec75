"""Tensors of a pickle by reference, and the values that may lie beside them."""

import pickle

import numpy as np
import pytest

from models import UnsafeCheckpoint
from models.tensor_records import STORAGE_DTYPES, StorageKey, StoredTensor, TensorReader


def view(shape, stride, offset=0):
    return StoredTensor(StorageKey(np.dtype("<f4"), "0"), offset, shape, stride)


def test_view_of_a_storage_is_what_it_says():
    storage = np.arange(12.0, dtype=np.float32)
    np.testing.assert_array_equal(view((2, 3), (3, 1), 6).of(storage), storage[6:].reshape(2, 3))
    assert view((), (), 3).of(storage).item() == 3
    assert view((0, 4), (4, 1)).of(storage[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    "stored",
    [
        view((2, 3), (3, 1), 7),
        view((10**6, 10**6), (0, 0)),
        view((13,), (1,)),
        view((2,), (12,)),
        view((10**18,), (1,)),
    ],
)
def test_view_beyond_its_storage_is_refused(stored):
    with pytest.raises(ValueError, match="reaches beyond its storage of 12 values"):
        stored.of(np.arange(12.0, dtype=np.float32))


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "builtins.getattr", "torch.load", "torch.hub.load", "argparse.x"),
        *("torch.storage._load_from_bytes", "subprocess.Popen", "mymodel.Net"),
    ],
)
def test_other_names_are_refused(name):
    module, _, last = name.rpartition(".")
    with pytest.raises(UnsafeCheckpoint, match="nothing was executed"):
        TensorReader().name(module, last)


@pytest.mark.parametrize("name", STORAGE_DTYPES)
def test_storage_of_every_dtype_is_known(name):
    assert TensorReader().name("torch", name).build is None


@pytest.mark.parametrize(
    "text",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n))I00\nNtR.",
        b"ctorch._utils\n_rebuild_parameter\n)R.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n)R.",
        b"ccollections\nOrderedDict\n(I1\ntR.",
        b"(S'storage'\nctorch\nload\nS'0'\nS'cpu'\nI4\ntQ.",
        b"(S'module'\nNNNNtQ.",
        b"NQ.",
    ],
)
def test_malformed_tensor_is_refused(text):
    with pytest.raises((pickle.UnpicklingError, UnsafeCheckpoint)):
        TensorReader().read(text)
