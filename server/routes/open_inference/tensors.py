"""Tensors on the wire: in JSON, or behind it as bytes (little-endian, row-major; BYTES elements after their length)."""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from server.contract.text import shown
from server.errors import FieldFault, InvalidRequest, MalformedBody, RequestFault, invalid_request
from server.json_text import LongString, read_json
from server.routes.open_inference.schemas import Datatype, InferRequest, RequestInput, ResponseOutput
from server.settings import MAX_ITEMS

HEADER_LENGTH = "Inference-Header-Content-Length"
ALL_BINARY = "binary_data_output"
_SIZE = "binary_data_size"
_DTYPES: Mapping[str, str] = {"FP32": "<f4", "INT64": "<i8", "UINT8": "|u1"}
# BYTES: strings (from JSON) or bytes (from the binary part), flat. UINT8: an array of the shape given.
Content = list[str | bytes] | npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Tensor:
    """An output: flat `data` of strings or numbers, in row-major order."""

    datatype: Datatype
    shape: tuple[int, ...]
    data: Sequence[Any]


@dataclass(frozen=True, eq=False)
class ParsedRequest:
    """A request, its inputs by name, and the long strings of its JSON by the placeholders that stand for them."""

    request: InferRequest
    contents: dict[str, Content]
    strings: Mapping[str, LongString]


def read_request(body: bytes | bytearray, header_length: str | None, *, max_values: int) -> ParsedRequest:
    """A request of at most `max_values` values; a RequestFault if it is wrong."""
    length = _length(header_length, len(body))
    advice = f"numbers go as bytes behind it, with a {_SIZE}"
    text = read_json(body[:length], max_values=max_values, advice=advice)
    try:
        request = text.parse(InferRequest)
    except ValidationError as error:
        raise _schema_fault(error) from None
    binary, contents = _BinaryPart(memoryview(body)[length:], max_values), {}
    for tensor in request.inputs:
        if tensor.name in contents:
            _refuse(tensor.name, "this input is given twice")
        contents[tensor.name] = _content(tensor, binary)
    binary.check_end()
    return ParsedRequest(request, contents, text.strings)


def write_outputs(request: InferRequest, tensors: Mapping[str, Tensor]) -> tuple[list[ResponseOutput], bytes]:
    """The outputs that `request` names (or all `tensors`), and the binary part that follows their JSON."""
    default = request.parameters.get(ALL_BINARY) is True
    own = {output.name: output.parameters.binary_data for output in request.outputs or ()}
    outputs, binary = [], []
    for name in own or tensors:
        tensor, as_binary = tensors[name], own.get(name)
        output = ResponseOutput(name=name, datatype=tensor.datatype, shape=list(tensor.shape))
        if default if as_binary is None else as_binary:
            binary.append(_pack(tensor))
            outputs.append(output.model_copy(update={"parameters": {_SIZE: len(binary[-1])}}))
        else:
            outputs.append(output.model_copy(update={"data": list(tensor.data)}))
    return outputs, b"".join(binary)


class _BinaryPart:
    """The bytes behind the JSON, read one tensor after the other."""

    def __init__(self, content: memoryview, max_values: int) -> None:
        self._content, self._taken = content, 0
        self.max_values = max_values

    def take(self, size: int, name: str) -> memoryview:
        left = len(self._content) - self._taken
        if size > left:
            _refuse(name, f"its {_SIZE} is {size}, but only {left} bytes follow: is {HEADER_LENGTH} right?")
        self._taken += size
        return self._content[self._taken - size : self._taken]

    def check_end(self) -> None:
        if left := len(self._content) - self._taken:
            raise MalformedBody(f"{left} bytes follow the tensors: is each {_SIZE} right?")


def _schema_fault(error: ValidationError) -> RequestFault:
    """A schema's validation error as a fault; the one of a tensor's `data`, a union, is reworded."""
    places = [fault["loc"] for fault in error.errors(include_input=False, include_url=False)]
    faulty = dict.fromkeys(place[1] for place in places if place[:1] == ("inputs",) and place[2:3] == ("data",))
    if not faulty:
        return invalid_request(error, fields=InferRequest.model_fields)
    reason = f"data must be strings, flat or in rows, at most {MAX_ITEMS}; send numbers as bytes, with a {_SIZE}"
    return InvalidRequest([FieldFault(f"inputs.{place}.data", reason) for place in [*faulty][:20]])


def _length(header: str | None, whole: int) -> int:
    if header is None:
        return whole
    if not header.isascii() or not header.isdecimal() or len(header) > 12 or int(header) > whole:
        raise MalformedBody(f"{HEADER_LENGTH} is {shown(header)}: it must be the length of the JSON, at most {whole}")
    return int(header)


def _content(tensor: RequestInput, binary: _BinaryPart) -> Content:
    size = tensor.parameters.binary_data_size
    if tensor.datatype not in ("BYTES", "UINT8"):
        _refuse(tensor.name, f"its datatype is {shown(tensor.datatype)}: BYTES and UINT8 are supported")
    count = math.prod(tensor.shape)
    if size is None:
        if tensor.datatype != "BYTES":
            _refuse(tensor.name, f"pixels must be sent as bytes behind the JSON, with a {_SIZE}")
        if tensor.data is None:
            _refuse(tensor.name, f"it has neither data nor a {_SIZE}")
        texts: list[str | bytes] = []
        for value in tensor.data:
            texts.extend(value if isinstance(value, list) else [value])
        _check_count(tensor, len(texts), count)
        return texts
    if tensor.data is not None:
        _refuse(tensor.name, f"it has both data and a {_SIZE}: give one of them")
    taken = binary.take(size, tensor.name)
    if tensor.datatype == "BYTES":
        if count > binary.max_values:
            _refuse(tensor.name, f"its shape has {count} values, at most {binary.max_values} are read")
        elements: list[str | bytes] = list(islice(_elements(taken, tensor.name), count + 1))
        _check_count(tensor, len(elements), count)
        return elements
    _check_count(tensor, len(taken), count)
    if not count:
        _refuse(tensor.name, f"its shape {shown(str(tensor.shape))} has no values")  # sizes beside a 0 may be any
    return np.frombuffer(taken, np.uint8).reshape(tensor.shape)


def _check_count(tensor: RequestInput, given: int, expected: int) -> None:
    if given != expected:
        _refuse(tensor.name, f"its shape {shown(str(tensor.shape))} has {expected} values, but {given} were sent")


def _elements(taken: memoryview, name: str) -> Iterator[bytes]:
    at = 0
    while at < len(taken):
        if at + 4 > len(taken):
            _refuse(name, "its last value has no complete length before it")
        (length,) = struct.unpack_from("<I", taken, at)
        at += 4 + length
        if at > len(taken):
            _refuse(name, "a value is longer than the remaining bytes")
        yield bytes(taken[at - length : at])


def _pack(tensor: Tensor) -> bytes:
    if tensor.datatype != "BYTES":
        return np.asarray(tensor.data, _DTYPES[tensor.datatype]).tobytes()
    encoded = [value.encode() for value in tensor.data]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def _refuse(name: str, reason: str) -> NoReturn:
    raise InvalidRequest([FieldFault(shown(name).strip("'"), reason)])
