"""Config dataclasses to JSON and back; every object names its type, since a field may have one of several."""

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """Convert a config dataclass to JSON data; nested dataclasses become objects with their "type"."""
    data: dict[str, Any] = {"type": type(config).__name__}
    for field in fields(config):
        value = getattr(config, field.name)
        data[field.name] = to_json(value) if is_dataclass(value) else value
    return data


def from_json(kind: type[T], data: Any) -> T:
    """Read a config dataclass from the data of `to_json`; ValueError names an entry that does not fit."""
    if not isinstance(data, dict):
        raise ValueError(f"{kind.__name__} is {data!r}; an object is expected")
    rest = {name: value for name, value in data.items() if name != "type"}
    hints = typing.get_type_hints(kind)
    if data.get("type") != kind.__name__:
        raise ValueError(f"the config's type is {data.get('type')!r}; {kind.__name__!r} is expected")
    if unknown := sorted(rest.keys() - hints.keys()):
        raise ValueError(f"{kind.__name__} has no {unknown}; it has {sorted(hints)}")
    try:
        return kind(**{name: _value(hints[name], value, f"{kind.__name__}.{name}") for name, value in rest.items()})
    except TypeError as error:
        raise ValueError(f"{kind.__name__} is incomplete: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, dict):
        for option in options:
            if is_dataclass(option) and isinstance(option, type) and option.__name__ == value.get("type"):
                return from_json(option, value)
        raise ValueError(f"{where} is a {value.get('type')!r}; accepted are {[str(option) for option in options]}")
    if isinstance(value, list):
        if not any(typing.get_origin(option) is tuple for option in options):
            raise ValueError(f"{where} is {value!r}; accepted is {hint}")
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    accepted = tuple(option for option in options if isinstance(option, type))
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        return value if int in accepted else float(value)
    if type(value) not in accepted:
        raise ValueError(f"{where} is {value!r}; accepted is {hint}")
    return value
