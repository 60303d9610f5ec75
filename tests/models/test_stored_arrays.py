"""Views of a mapped file: their bounds, strides, and bfloat16."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.stored_arrays import BFLOAT16, NUMPY, flat_view, mapped, of_type, strided_view

VALUES = np.arange(24, dtype=np.float32)


def bfloat16(values):
    bits = torch.tensor(values, dtype=torch.bfloat16).view(torch.int16).numpy()
    return bits.view(np.uint16).view(BFLOAT16)


@given(st.lists(st.floats(width=32), min_size=1, max_size=9))
def test_bfloat16_becomes_the_float32_that_torch_makes(values):
    wanted = torch.tensor(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(of_type(bfloat16(values), np.float32), wanted)


def test_bfloat16_is_turned_joined_and_compared_as_other_arrays():
    rows = bfloat16([1.5, -2.0, 3.0, 0.0, 8.0, 9.0]).reshape(3, 2)
    np.testing.assert_array_equal(of_type(rows.T, np.float32), [[1.5, 3.0, 8.0], [-2.0, 0.0, 9.0]])
    assert NUMPY.concatenate([rows, rows]).shape == (6, 2)
    assert NUMPY.equal(rows, rows.copy())
    assert not NUMPY.equal(rows, rows[::-1])
    assert NUMPY.kind(rows) == "f"


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=3),
)
def test_strided_view_is_torch_s_or_refused(offset, axes):
    shape, stride = [size for size, _ in axes], [step for _, step in axes]
    try:
        found = strided_view(VALUES, offset, shape, stride)
    except ValueError:
        last = offset + sum((size - 1) * step for size, step in axes)
        assert last >= len(VALUES) or np.prod(shape) > len(VALUES)
    else:
        np.testing.assert_array_equal(found, torch.from_numpy(VALUES).as_strided(shape, stride, offset).numpy()) if (
            found.size
        ) else None
        assert found.shape == tuple(shape)


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 9), (9, 1), (-1, 2), (4, 2**63)])
def test_view_beyond_the_file_is_refused(tmp_path, offset, nbytes):
    (tmp_path / "x").write_bytes(bytes(8))
    data = mapped(tmp_path / "x")
    assert len(flat_view(data, 4, 4, np.dtype("<f4"))) == 1
    with pytest.raises(ValueError, match="beyond the file"):
        flat_view(data, offset, nbytes, np.dtype("u1"))


def test_array_of_the_right_type_is_not_copied():
    assert np.shares_memory(of_type(VALUES, np.float32), VALUES)
    assert of_type(np.float32(3).reshape(()), np.float32).shape == ()
