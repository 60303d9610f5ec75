"""Sources of tensors as data: what each operation builds, the same in NumPy and PyTorch, and what JSON keeps of it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.state_dict_map import TORCH
from models.stored_arrays import NUMPY
from models.tensor_sources import Source, built, same, shared, stacked, third, transposed

STORED = {
    "q": np.arange(6, dtype=np.float32).reshape(3, 2),
    "k": np.arange(6, 12, dtype=np.float32).reshape(3, 2),
    "again": np.arange(6, dtype=np.float32).reshape(3, 2),
}
names = st.text(min_size=1, max_size=8)
sources = st.one_of(
    st.builds(same, names, names),
    st.builds(transposed, names),
    st.builds(stacked, names, names, names),
    st.builds(third, names, st.integers(0, 2)),
    st.builds(shared, names, names),
)


@given(sources)
def test_source_survives_json(source):
    assert Source.from_json(json.loads(json.dumps(source.to_json()))) == source


@pytest.mark.parametrize(
    "data", [None, [], ["same"], ["exec", [["a"]], 0], ["same", [["a"]], "0"], ["same", 5, 0], ["same", [[5]], 0]]
)
def test_other_json_is_no_source(data):
    with pytest.raises(ValueError, match="is no source of a tensor"):
        Source.from_json(data)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (same("gone", "k"), STORED["k"]),
        (transposed("q"), STORED["q"].T),
        (stacked("q", "k"), np.concatenate([STORED["q"], STORED["k"]])),
        (third("q", 1), STORED["q"][1:2]),
        (shared("q", "again"), STORED["q"]),
    ],
    ids=lambda value: getattr(value, "operation", ""),
)
def test_numpy_and_torch_build_the_same(source, wanted):
    tensors = {name: torch.from_numpy(array) for name, array in STORED.items()}
    ours = built(source, STORED, NUMPY, shape=wanted.shape, kind="f")
    theirs = built(source, tensors, TORCH, shape=wanted.shape, kind="f")
    np.testing.assert_array_equal(ours, wanted)
    np.testing.assert_array_equal(theirs.numpy(), wanted)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (shared("q", "k"), "differs between layers"),
        (same("q", "k"), "differs from k"),
        (third("again", 0), r"again \[3, 2\], the model's tensor is \[9, 9\]"),
        (stacked("q", "odd"), "q [+] odd"),
        (third("odd", 0), "has 4 rows, a multiple of 3"),
    ],
)
@pytest.mark.parametrize("library", [NUMPY, TORCH], ids=["numpy", "torch"])
def test_tensors_that_make_none_are_named(source, fault, library):
    arrays = STORED | {"odd": np.zeros((4, 5), np.float32)}
    tensors = arrays if library is NUMPY else {name: torch.from_numpy(array) for name, array in arrays.items()}
    with pytest.raises(ValueError, match=fault):
        built(source, tensors, library, shape=(9, 9), kind="f")


@pytest.mark.parametrize("library", [NUMPY, TORCH], ids=["numpy", "torch"])
def test_whole_numbers_are_no_weights(library):
    array = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match=r"n is .*int64, the model's tensor is floating point"):
        built(same("n"), {"n": array if library is NUMPY else torch.from_numpy(array)}, library, shape=(3,), kind="f")
