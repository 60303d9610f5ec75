"""Reads the .npz files of a bundle: sizes are checked before memory is taken, and nothing in them is unpickled."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from server.contract.manifest import BundleError

# Bytes of all arrays of one file; the reference outputs of the largest models take a fifth.
MAX_BYTES = 2**30
NamedArrays = dict[str, npt.NDArray[np.generic]]


def read_arrays(path: Path) -> NamedArrays:
    """The arrays of a file that `numpy.savez` wrote, by name; BundleError names the file and the fault."""
    arrays: NamedArrays = {}
    left = MAX_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                left -= info.file_size
                if left < 0:
                    raise ValueError(f"its arrays have more than {MAX_BYTES} bytes")
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = _array(file, info)
    except Exception as error:  # a damaged zip fails in many ways
        raise BundleError(f"{path} holds no arrays: {error}") from error
    return arrays


def _array(file: IO[bytes], info: zipfile.ZipInfo) -> npt.NDArray[np.generic]:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise ValueError(f"{info.filename} is of version {version}")
    shape, fortran_order, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds objects, which would have to be unpickled")
    if len(shape) > 32 or any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{info.filename} has the shape {shape}, and only {info.file_size} bytes")
    data = file.read()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename} has the shape {shape}, and {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
