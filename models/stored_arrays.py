"""NumPy arrays of stored tensors: views of a memory-mapped file, also in bfloat16, which NumPy does not have."""

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.tensor_sources import ArrayLibrary

Array = npt.NDArray[Any]
# Upper halves of float32 numbers, in a type of one field: views, slices and comparisons work as of any other array.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])


def is_floating_point(array: Array) -> bool:
    """True for an array of floats, bfloat16 included."""
    return array.dtype == BFLOAT16 or array.dtype.kind == "f"


NUMPY = ArrayLibrary(np.concatenate, np.array_equal, lambda array: "f" if is_floating_point(array) else "i")


def of_type(array: Array, dtype: npt.DTypeLike) -> Array:
    """The array in C order and this type; itself where it is so already."""
    if array.dtype == BFLOAT16:
        array = (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


def mapped(path: Path) -> mmap.mmap:
    """The bytes of a file, read as they are used; ValueError for an empty one."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def flat_view(data: mmap.mmap, offset: int, nbytes: int, dtype: np.dtype[Any]) -> Array:
    """View of whole values from `offset` on; ValueError where they are not inside the file."""
    if not 0 <= offset <= offset + nbytes <= len(data):
        raise ValueError(f"{nbytes} bytes at {offset} reach beyond the file's {len(data)}")
    return np.ndarray((nbytes // dtype.itemsize,), dtype, data, offset)


def strided_view(values: Array, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Array:
    """View of a storage [N] by offset, shape and strides in elements; ValueError where it reaches beyond the storage.

    Views larger than their storage are refused: one number repeated would fill any memory.
    """
    if any(type(n) is not int or not 0 <= n < 2**62 for n in (offset, *shape, *stride)) or len(shape) != len(stride):
        raise ValueError(f"a tensor has offset {offset!r}, shape {shape!r}, stride {stride!r}")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if count > len(values) or (count and last >= len(values)):
        raise ValueError(f"a tensor of shape {tuple(shape)} reaches beyond its storage of {len(values)} values")
    if not count:
        return np.empty(shape, values.dtype)
    steps = [step * values.itemsize for step in stride]
    return np.ndarray(tuple(shape), values.dtype, values, offset * values.itemsize, steps)
