"""Reads the pickles in PyTorch's containers as records of tensors. Nothing that a pickle names is imported or called.

The machine below knows the operations that containers use, and makes plain values and the records of this module; any
other name or operation is refused. Python's own unpickler would look names up, and can be made to exhaust memory or the
stack by numbers of the memo and by nested keys.
"""

import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from models import UnsafeCheckpoint
from models.stored_arrays import BFLOAT16, Array, strided_view

STORAGES: dict[str, np.dtype[Any]] = {
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
# Plain values that a checkpoint may hold beside tensors.
DTYPE_NAMES = {"float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"}
LIST_BUILDERS = {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"}
# Of the largest published checkpoints with the state of their optimiser, a hundred times over.
MAX_OPERATIONS = 5_000_000


class PickleFault(ValueError):
    """A pickle that is damaged, or none of PyTorch's."""


@dataclass(frozen=True)
class StorageRecord:
    """A storage in the container: its type, the name of its data, and its number of values."""

    dtype: np.dtype[Any]
    key: str
    count: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor before its storage is read; offset and strides in values."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, storage: Array) -> Array:
        """View of the tensor in its storage [N]; ValueError where it is not inside."""
        return strided_view(storage, self.offset, self.shape, self.stride)


@dataclass(eq=False)
class ObjectRecord:
    """An object whose class is not looked up: a scripted module, or a namespace of arguments."""

    attributes: Any = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A permitted name; `make` is called in its place, and makes a plain value or a record."""

    full: str
    make: Callable[..., Any] | None = None
    dtype: np.dtype[Any] | None = None


def load_pickle(stream: IO[bytes] | mmap.mmap, storages: dict[str, StorageRecord] | None = None) -> Any:
    """The value of the next pickle of a stream: plain values and records.

    storages: dictionary to which the storages that it names are added, by key. UnsafeCheckpoint for a name that is no
    part of a tensor; PickleFault for anything else that is wrong.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if count > MAX_OPERATIONS:
                raise PickleFault(f"a pickle of more than {MAX_OPERATIONS} operations")
            if operation.name == "STOP":
                return machine.pop()
            machine.do(operation.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, UnicodeError) as error:
        if isinstance(error, UnsafeCheckpoint):
            raise
        raise PickleFault(f"a damaged pickle: {error or type(error).__name__}") from error
    raise PickleFault("a pickle without an end")


class _Machine:
    """Stack and memo of a pickle; marks are positions of the stack."""

    def __init__(self, storages: dict[str, StorageRecord]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise PickleFault("a pickle takes a mark for a value")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """All values above the last mark, which go with it."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def do(self, name: str, argument: Any) -> None:
        """Do one operation, by its name in `pickletools`."""
        if name in _ARGUMENTS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self)
        elif name == "GLOBAL":
            self.stack.append(_permitted(*argument.split(" ", 1)))
        elif name not in ("PROTO", "FRAME"):
            raise UnsafeCheckpoint(f"its pickle has the operation {name}, which no tensor needs; nothing was executed")

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise PickleFault(f"a pickle appends to a {type(target).__name__}")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise PickleFault(f"a pickle sets items of a {type(target).__name__}")
        target.update(_pairs(values))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_permitted(module, name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or function.make is None or type(arguments) is not tuple:
            raise PickleFault(f"a pickle calls {getattr(function, 'full', type(function).__name__)}")
        self.stack.append(function.make(*arguments))

    def new_object(self) -> None:
        _, kind = self.pop(), self.pop()
        if not isinstance(kind, _Name) or kind.make is not ObjectRecord:
            raise PickleFault(f"a pickle makes an object of {getattr(kind, 'full', type(kind).__name__)}")
        self.stack.append(ObjectRecord())

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, ObjectRecord):
            target.attributes = state
        elif type(target) is not dict:  # the attributes of a state dict, such as `_metadata`, are passed over
            raise PickleFault(f"a pickle sets the state of a {type(target).__name__}")

    def persistent(self) -> None:
        pid = self.pop()
        # Containers without zip have a sixth entry, a part of another storage, which PyTorch has not written for years.
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or (len(pid) == 6 and pid[5]):
            raise PickleFault("a reference is to no storage")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Name) or kind.dtype is None or type(key) is not str or type(count) is not int:
            raise PickleFault("a reference is to a storage of no known type")
        record = StorageRecord(kind.dtype, key, count)
        self.storages[key] = record
        self.stack.append(record)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))


_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_OPERATIONS: dict[str, Callable[[_Machine], Any]] = {
    "MARK": lambda m: m.marks.append(len(m.stack)),
    "POP": lambda m: m.marks.pop() if m.marks and m.marks[-1] == len(m.stack) else m.stack.pop(),
    "POP_MARK": lambda m: m.marked(),
    "MEMOIZE": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "TUPLE": lambda m: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "LIST": lambda m: m.stack.append(m.marked()),
    "DICT": lambda m: m.stack.append(dict(_pairs(m.marked()))),
    "APPEND": lambda m: m.append([m.pop()]),
    "APPENDS": lambda m: m.append(m.marked()),
    "SETITEM": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.set_items(m.marked()),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    """Keys and values in turn; a key is a plain value, since hashing nested ones may exhaust the stack."""
    keys = values[::2]
    if strange := [key for key in keys if type(key) not in (str, int, float, bool, type(None))]:
        raise PickleFault(f"a key is a {type(strange[0]).__name__}")
    return list(zip(keys, values[1::2], strict=True))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRecord:
    if not isinstance(storage, StorageRecord):
        raise PickleFault(f"a tensor's storage is a {type(storage).__name__}")
    return TensorRecord(storage, offset, tuple(shape), tuple(stride))


def _parameter(tensor: Any, *_: Any) -> TensorRecord:
    if not isinstance(tensor, TensorRecord):
        raise PickleFault(f"a parameter is a {type(tensor).__name__}")
    return tensor


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return dict(_pairs([value for key, item in pairs for value in (key, item)]))


def _first(value: Any = None, *_: Any) -> Any:
    return value


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): _ordered,
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("torch", "device"): lambda *_: None,
    ("argparse", "Namespace"): ObjectRecord,
    **{("torch.jit._pickle", name): _first for name in LIST_BUILDERS},
}


def _permitted(module: Any, name: Any) -> _Name:
    full = f"{module}.{name}"
    if type(module) is str and (module == "__torch__" or module.startswith("__torch__.")):
        return _Name(full, make=ObjectRecord)
    if (module, name) in _MAKERS:
        return _Name(full, make=_MAKERS[module, name])
    if module == "torch" and name in STORAGES:
        return _Name(full, dtype=STORAGES[name])
    if module == "torch" and name in DTYPE_NAMES:
        return _Name(full)
    raise UnsafeCheckpoint(f"it refers to {full}, which is not part of a tensor; nothing was executed")
