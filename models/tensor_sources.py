"""Sources of a model's tensors in a published checkpoint, as data: the same table fills a PyTorch model and a template.

An operation is done by NumPy or PyTorch, whichever the stored tensors are of; nothing here imports PyTorch.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from models import WeightsDoNotFit

# "same": the stored tensor. "transposed": a matrix, turned. "stacked": several, one after the other by rows. "third":
# the `index`th third of the rows. "shared": several that must be equal, of which the model has one.
Operation = Literal["same", "transposed", "stacked", "third", "shared"]


@dataclass(frozen=True)
class Source:
    """Source of one of our tensors.

    parts: stored tensors to build it from, each a tuple of names under which one shared tensor may be stored: at least
    one must be present, and all present ones must be equal. index: of the third.
    """

    operation: Operation
    parts: tuple[tuple[str, ...], ...]
    index: int = 0

    def to_json(self) -> list[Any]:
        """This source as JSON data, which `from_json` reads."""
        return [self.operation, [list(part) for part in self.parts], self.index]

    @classmethod
    def from_json(cls, data: Any) -> "Source":
        """The inverse of `to_json`; ValueError where it is none."""
        try:
            operation, parts, index = data
            source = cls(operation, tuple(tuple(part) for part in parts), index)
        except (TypeError, ValueError):
            raise ValueError(f"{data!r} is no source of a tensor") from None
        names = [alias for part in source.parts for alias in part]
        if operation not in get_args(Operation) or type(index) is not int or not all(type(n) is str for n in names):
            raise ValueError(f"{data!r} is no source of a tensor; operations are {get_args(Operation)}")
        return source


def same(*aliases: str) -> Source:
    """The stored tensor unchanged, under any of these names."""
    return Source("same", (aliases,))


def transposed(*aliases: str) -> Source:
    """The stored matrix, transposed."""
    return Source("transposed", (aliases,))


def stacked(*names: str) -> Source:
    """Several stored tensors concatenated by rows (query, key and value projections)."""
    return Source("stacked", tuple((name,) for name in names))


def third(name: str, index: int) -> Source:
    """A third of the stored tensor's rows (one of query, key and value)."""
    return Source("third", ((name,),), index)


def shared(*names: str) -> Source:
    """A tensor that is stored several times, under all these names, with equal values."""
    return Source("shared", tuple((name,) for name in names))


@dataclass(frozen=True)
class PublishedTable:
    """Table of a container: the source of each of our tensors, and names of stored tensors to ignore.

    config: values that the config.json beside must have, if it is there: dotted names of entries to accepted values, of
    which None stands for an absent entry.
    """

    sources: Mapping[str, Source]
    surplus: Collection[str] = ()
    config: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ArrayLibrary:
    """Functions of NumPy or PyTorch that have no form of the same name in the other's arrays.

    kind: letter "f" for floating point, another for any other type.
    """

    concatenate: Callable[[list[Any]], Any]
    equal: Callable[[Any, Any], bool]
    kind: Callable[[Any], str]


def check_names(
    names: Collection[str], sources: Collection[Source], *, surplus: Collection[str] = (), path: str = ""
) -> None:
    """WeightsDoNotFit with every stored name that is missing, or left over and not in `surplus`."""
    known = {alias for source in sources for part in source.parts for alias in part}
    missing = [part[0] for source in sources for part in source.parts if not any(alias in names for alias in part)]
    left_over = [name for name in names if name not in known and name not in surplus]
    if missing or left_over:
        raise WeightsDoNotFit(missing=missing, left_over=left_over, path=path)


def built(source: Source, tensors: Mapping[str, Any], library: ArrayLibrary, *, shape: Sequence[int], kind: str) -> Any:
    """Our tensor, of the stored type; ValueError tells why the stored ones do not make one of this shape and kind."""
    try:
        value = _operate(source, [_one_of(part, tensors, library) for part in source.parts], library)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{' + '.join(part[0] for part in source.parts)}: {error}") from None
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{_stored_shapes(source, tensors)}, the model's tensor is {list(shape)}")
    if (library.kind(value) == "f") != (kind == "f"):
        wanted = "floating point" if kind == "f" else "of whole numbers"
        raise ValueError(f"{source.parts[0][0]} is {value.dtype}, the model's tensor is {wanted}")
    return value


def _operate(source: Source, parts: list[Any], library: ArrayLibrary) -> Any:
    first = parts[0]
    if source.operation == "transposed":
        return first.T
    if source.operation == "stacked":
        return library.concatenate(parts)
    if source.operation == "third":
        rows, rest = divmod(first.shape[0], 3)
        if rest:
            raise ValueError(f"has {first.shape[0]} rows, a multiple of 3 is expected")
        return first[source.index * rows : (source.index + 1) * rows]
    if source.operation == "shared" and not all(library.equal(part, first) for part in parts):
        raise ValueError("differs between layers, though the model shares it")
    return first


def _one_of(aliases: tuple[str, ...], tensors: Mapping[str, Any], library: ArrayLibrary) -> Any:
    present = [alias for alias in aliases if alias in tensors]
    first = tensors[present[0]]
    for other in present[1:]:
        if not library.equal(first, tensors[other]):
            raise ValueError(f"differs from {other}, though the model shares the two")
    return first


def _stored_shapes(source: Source, tensors: Mapping[str, Any]) -> str:
    names = [next(alias for alias in part if alias in tensors) for part in source.parts]
    return " + ".join(f"{name} {list(tensors[name].shape)}" for name in names)
