"""Arrays of a bundle: as numpy wrote them, and nothing that a hostile file says is believed."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from server.contract import arrays as reading
from server.contract.arrays import read_arrays
from server.contract.manifest import BundleError

DTYPES = st.sampled_from([np.float32, np.int64, np.bool_, np.uint8, np.float16])


@given(DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0))), st.booleans(), st.booleans())
def test_arrays_come_back_as_they_were(tmp_path_factory, array, compressed, fortran):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    written = np.asfortranarray(array) if fortran else array
    (np.savez_compressed if compressed else np.savez)(path, **{"a/b": written})
    found = read_arrays(path)
    assert list(found) == ["a/b"]
    assert found["a/b"].dtype == array.dtype
    np.testing.assert_array_equal(found["a/b"], array)


def header(shape, descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz(path, data, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("a.npy", data)
    return path


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (header((10**12,)), "has the shape"),
        (header((2**62, 2**62)), "has the shape"),
        (header((4,)) + bytes(8), "has the shape"),
        (header((2,)) + bytes(9), "has the shape"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "holds no arrays"),
        (b"nothing", "magic"),
        (b"\x93NUMPY\x09\x00" + bytes(40), "version"),
    ],
)
def test_array_that_its_file_does_not_hold_is_refused(tmp_path, data, told):
    with pytest.raises(BundleError, match=told):
        read_arrays(npz(tmp_path / "a.npz", data))


def test_pickled_array_is_refused_and_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(BundleError, match="holds objects, which would have to be unpickled"):
        read_arrays(tmp_path / "a.npz")


def test_small_file_of_large_arrays_is_refused_before_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 10**6)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(2 * 10**6, np.uint8))
    with pytest.raises(BundleError, match="more than 1000000 bytes"):
        read_arrays(tmp_path / "a.npz")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.npz"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"bytes\.npz holds no arrays"):
        read_arrays(path)
