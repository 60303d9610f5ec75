"""Reads a pickle into inert records: no name in it is imported or called, and the cost follows from its length.

Python's unpickler calls what a pickle names, and trusts its numbers: a memo index of 2**28 takes 4 GB. Here the opcodes
(`pickletools`) build lists, dicts, tensors by reference, and records of all else.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, BinaryIO

from models import UnsafeCheckpoint

# A checkpoint of a thousand tensors, with its optimizer's state, has some 200,000.
MAX_OPCODES = 5_000_000
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
_MARK = object()


@dataclass(frozen=True)
class Name:
    """A name in a pickle: `build` makes a value of arguments; without it the name is only recorded."""

    module: str
    name: str
    build: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Record:
    """An object in a pickle: the name of its class, the arguments of its constructor, and its state."""

    name: Name
    arguments: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


class RecordReader:
    """Machine of a pickle's opcodes; a subclass says which names it takes, and what a persistent id stands for."""

    def name(self, module: str, name: str) -> Name:
        """The value of a name; UnsafeCheckpoint refuses it."""
        raise UnsafeCheckpoint(f"{module}.{name} is not part of a tensor; nothing was executed")

    def persistent(self, pid: Any) -> Any:
        """The value of a persistent id."""
        raise UnpicklingError("a persistent id is not expected")

    def read(self, file: bytes | BinaryIO) -> Any:
        """The value of the pickle at the position of `file`; UnpicklingError or ValueError where it is malformed."""
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        stream = io.BytesIO(file) if isinstance(file, bytes) else file
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPCODES:
                raise UnpicklingError(f"more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                return self._pop()
            act = _ACTS.get(opcode.name)
            if act is None:
                raise UnpicklingError(f"the opcode {opcode.name} is not expected")
            act(self, argument)
        raise UnpicklingError("it has no end")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise UnpicklingError("a value is missing")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._push(value)
        return value

    def _marked(self) -> list[Any]:
        """All values above the last mark, which goes too."""
        values = []
        while self._stack and self._stack[-1] is not _MARK:
            values.append(self._stack.pop())
        if not self._stack:
            raise UnpicklingError("a mark is missing")
        self._stack.pop()
        return values[::-1]

    def _tuple(self, size: int) -> None:
        values = [self._pop() for _ in range(size)]
        self._push(tuple(values[::-1]))

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Record):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise UnpicklingError(f"items are added to a {type(target).__name__}")

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if len(values) % 2:
            raise UnpicklingError("a key has no value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(target, Record):
                target.items.append((key, value))
            elif isinstance(target, dict):
                target[_key(key)] = value
            else:
                raise UnpicklingError(f"entries are added to a {type(target).__name__}")

    def _dict(self, values: list[Any]) -> None:
        self._push({})
        self._set_items(values)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise UnpicklingError(f"nothing is stored under {index}")
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnpicklingError("a name is not text")
        self._push(self.name(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self, *, keywords: bool = False) -> None:
        if keywords:
            self._pop()
        arguments, target = self._pop(), self._pop()
        if not isinstance(target, Name) or not isinstance(arguments, tuple):
            raise UnpicklingError(f"a {type(target).__name__} is called")
        self._push(Record(target, arguments) if target.build is None else target.build(*arguments))

    def _instance(self, values: list[Any]) -> None:
        """Call the first of the values with the others."""
        if not values:
            raise UnpicklingError("a class is missing")
        self._push(values[0])
        self._push(tuple(values[1:]))
        self._call()

    def _instance_of(self, name: str) -> None:
        arguments = self._marked()
        self._global(*name.split(" ", 1))
        self._instance([self._pop(), *arguments])

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict) and not hasattr(target, "storage"):
            # The attributes of an OrderedDict or a parameter (versions, hooks) say nothing about its values.
            raise UnpicklingError(f"state is set on a {type(target).__name__}")


def _key(key: Any) -> Any:
    """A key that is hashed in a time bounded by its length: nested tuples may share their parts exponentially."""
    plain = isinstance(key, _PLAIN_KEYS)
    if plain or (isinstance(key, tuple) and all(isinstance(part, _PLAIN_KEYS) for part in key)):
        return key
    raise UnpicklingError(f"a key of a dict is a {type(key).__name__}")


def _constant(value: Any) -> Callable[[RecordReader, Any], None]:
    return lambda machine, _: machine._push(value)


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "FLOAT", "BINFLOAT"),
)
_ACTS: Mapping[str, Callable[[RecordReader, Any], Any]] = {
    **{name: lambda machine, value: machine._push(value) for name in _LITERALS},
    **{name: lambda machine, index: machine._get(index) for name in ("GET", "BINGET", "LONG_BINGET")},
    **{name: lambda machine, index: machine._put(index) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": _constant(_MARK),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "EMPTY_SET": lambda machine, _: machine._push([]),
    "EMPTY_TUPLE": _constant(()),
    "LIST": lambda machine, _: machine._push(machine._marked()),
    "FROZENSET": lambda machine, _: machine._push(machine._marked()),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._marked())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "DICT": lambda machine, _: machine._dict(machine._marked()),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._marked()),
    "ADDITEMS": lambda machine, _: machine._append(machine._marked()),
    "SETITEM": lambda machine, _: machine._set_item(),
    "SETITEMS": lambda machine, _: machine._set_items(machine._marked()),
    "POP": lambda machine, _: machine._stack.pop() if machine._stack else machine._pop(),
    "POP_MARK": lambda machine, _: machine._marked(),
    "DUP": lambda machine, _: machine._push(machine._top()),
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memo)),
    "GLOBAL": lambda machine, name: machine._global(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._stack_global(),
    "INST": lambda machine, name: machine._instance_of(name),
    "OBJ": lambda machine, _: machine._instance(machine._marked()),
    "REDUCE": lambda machine, _: machine._call(),
    "NEWOBJ": lambda machine, _: machine._call(),
    "NEWOBJ_EX": lambda machine, _: machine._call(keywords=True),
    "BUILD": lambda machine, _: machine._build(),
    "BINPERSID": lambda machine, _: machine._push(machine.persistent(machine._pop())),
}
