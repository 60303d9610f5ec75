"""Tensors of a pickle by reference: the names that make them, and those of the values that are left beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import numpy as np

from models import UnsafeCheckpoint
from models.pickle_records import Name, RecordReader
from models.stored_arrays import BFLOAT16, Array, strided_view

STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# Classes of values that training programs leave beside the weights: arguments, metrics, settings, schedules. They are
# recorded, never made. Whole packages end in a dot.
BESIDE_WEIGHTS = (
    *("argparse.Namespace", "types.SimpleNamespace", "pathlib.", "datetime.", "uuid.UUID", "decimal.Decimal"),
    *("collections.", "_codecs.encode", "copyreg._reconstructor", "copy_reg._reconstructor"),
    *("numpy.", "torch.device", "torch.dtype", "torch.Size", "torch.optim.", "torch.serialization._get_layout"),
    *("omegaconf.", "yacs.config.", "easydict.", "addict.", "ml_collections.", "mmengine.", "mmcv."),
    *("lightning.", "lightning_fabric.", "pytorch_lightning.", "util.slconfig.", "typing.Any"),
    *(f"builtins.{name}" for name in ("set", "frozenset", "list", "tuple", "dict", "bytearray", "bytes", "complex")),
    *(f"builtins.{name}" for name in ("range", "slice", "int", "float", "bool", "str", "object", "long")),
)
_PYTHON_2 = {"__builtin__": "builtins"}
_DTYPE_NAMES = frozenset(
    {"float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"}
)


@dataclass(frozen=True)
class StorageKey:
    """A storage of a checkpoint, by its key there."""

    dtype: np.dtype[Any]
    key: str


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage; offset and strides count values."""

    storage: StorageKey
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, storage: Array) -> Array:
        """The view of the storage's values; ValueError where it reaches beyond them, or repeats them."""
        return strided_view(storage, self.offset, self.shape, self.stride)


class TensorReader(RecordReader):
    """Reads a pickle of `torch.save`; other names than a tensor's and those beside weights are refused."""

    def name(self, module: str, name: str) -> Name:
        module = _PYTHON_2.get(module, module)
        full = f"{module}.{name}"
        if module == "torch" and (name in STORAGE_DTYPES or name in _DTYPE_NAMES):
            return Name(module, name)
        if full in _BUILDERS:
            return Name(module, name, _BUILDERS[full])
        if full.startswith(tuple(known for known in BESIDE_WEIGHTS if known.endswith("."))) or full in BESIDE_WEIGHTS:
            return Name(module, name)
        raise UnsafeCheckpoint(f"{full} is not part of a tensor; nothing was executed")

    def persistent(self, pid: Any) -> StorageKey:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or not isinstance(pid[1], Name):
            raise UnpicklingError("a persistent id is no storage")
        dtype = STORAGE_DTYPES.get(pid[1].name) if pid[1].module == "torch" else None
        if dtype is None or not isinstance(pid[2], str | int):
            raise UnpicklingError(f"a storage is a {pid[1]}")
        return StorageKey(dtype, str(pid[2]))


def _tensor(storage: Any = None, offset: Any = None, shape: Any = (), stride: Any = (), *_: Any) -> StoredTensor:
    if not isinstance(storage, StorageKey):
        raise UnpicklingError(f"a tensor's storage is a {type(storage).__name__}")
    if not isinstance(shape, tuple | list) or not isinstance(stride, tuple | list) or len(shape) != len(stride):
        raise UnpicklingError("a tensor's shape and stride are no lists of one length")
    if any(type(number) is not int or not 0 <= number < 2**62 for number in (offset, *shape, *stride)):
        raise UnpicklingError("a tensor's offset, shape or stride is no number")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any = None, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise UnpicklingError(f"a parameter is a {type(data).__name__}")
    return data


def _of_type(function: Any = None, _: Any = None, arguments: Any = (), *__: Any) -> Any:
    if not isinstance(function, Name) or function.build is None or not isinstance(arguments, tuple):
        raise UnpicklingError("a tensor of a class of its own is not expected")
    return function.build(*arguments)


def _ordered(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise UnpicklingError("an OrderedDict is made of something else than pairs")
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise UnpicklingError("a key of an OrderedDict is neither text nor a number")
    return dict(pairs)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.nn.parameter.Parameter": _parameter,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": lambda *_: {},
}
