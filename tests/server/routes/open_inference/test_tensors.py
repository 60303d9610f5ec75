"""Tensors on the wire: round trips, and refusals of malformed bodies."""

import contextlib
import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import InvalidRequest, RequestFault
from server.routes.open_inference.schemas import InferRequest
from server.routes.open_inference.tensors import Tensor, read_request, write_outputs

VALUES = st.lists(st.binary(max_size=20), max_size=5)


def request_of(inputs, binary=b""):
    head = json.dumps({"inputs": inputs}).encode()
    return head + binary, str(len(head))


@given(VALUES, st.lists(st.integers(0, 255), min_size=1, max_size=12))
def test_inputs_sent_as_bytes_are_read_back(values, numbers):
    packed = b"".join(struct.pack("<I", len(value)) + value for value in values)
    inputs = [
        {"name": "a", "datatype": "BYTES", "shape": [len(values)], "parameters": {"binary_data_size": len(packed)}},
        {
            "name": "b",
            "datatype": "UINT8",
            "shape": [len(numbers), 1],
            "parameters": {"binary_data_size": len(numbers)},
        },
    ]
    contents = read_request(*request_of(inputs, packed + bytes(numbers)), max_values=100).contents
    assert contents["a"] == values
    assert contents["b"].tolist() == [[number] for number in numbers]


@given(st.lists(st.lists(st.text(max_size=5), min_size=2, max_size=2), max_size=4))
def test_nested_data_is_read_row_by_row(rows):
    inputs = [{"name": "a", "datatype": "BYTES", "shape": [len(rows), 2], "data": rows}]
    contents = read_request(json.dumps({"inputs": inputs}).encode(), None, max_values=100).contents
    assert contents["a"] == [text for row in rows for text in row]


@pytest.mark.parametrize("shape", [[0], [0, 1, 3], [2**62, 0, 2**62], [2**62, 2**62, 0]])
def test_pixels_of_no_values_are_refused(shape):
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": 0}}
    with pytest.raises(InvalidRequest, match="has no values"):
        read_request(*request_of([tensor]), max_values=100)


@pytest.mark.parametrize("shape", [[8_000_000], [100], [2**60, 2**60]])
def test_values_are_counted_before_they_are_made(shape):
    size = 4 * 8_000_000
    tensor = {"name": "labels", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    body, length = request_of([tensor], bytes(size))
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="labels"):
        read_request(body, length, max_values=100)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@settings(max_examples=200)
@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=5), st.integers(-5, 300).map(str)))
def test_any_bytes_are_read_or_refused(body, length):
    for content in (body, b'{"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}' + body):
        with contextlib.suppress(RequestFault):
            read_request(content, length, max_values=100)


@given(st.lists(st.text(max_size=10), max_size=4), st.lists(st.floats(width=32, allow_nan=False), max_size=4))
def test_outputs_written_as_bytes_hold_what_was_given(texts, numbers):
    tensors = {
        "texts": Tensor("BYTES", (len(texts),), texts),
        "numbers": Tensor("FP32", (len(numbers),), numbers),
        "places": Tensor("INT64", (len(numbers),), list(range(len(numbers)))),
    }
    request = InferRequest(inputs=[], parameters={"binary_data_output": True})
    outputs, binary = write_outputs(request, tensors)
    sizes = [output.parameters["binary_data_size"] for output in outputs]
    assert sum(sizes) == len(binary)
    packed = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    assert binary[: sizes[0]] == packed
    assert np.frombuffer(binary[sizes[0] : sizes[0] + sizes[1]], "<f4").tolist() == numbers
    assert np.frombuffer(binary[sizes[0] + sizes[1] :], "<i8").tolist() == list(range(len(numbers)))


@pytest.mark.parametrize(("whole", "own", "sent"), [(True, None, True), (True, False, False), (False, True, True)])
def test_an_outputs_own_wish_goes_before_the_requests(whole, own, sent):
    parameters = {} if own is None else {"binary_data": own}
    asked = {"inputs": [], "outputs": [{"name": "a", "parameters": parameters}]}
    request = InferRequest.model_validate(asked | {"parameters": {"binary_data_output": whole}})
    (output,), binary = write_outputs(request, {"a": Tensor("INT64", (1,), [7])})
    assert (len(binary), output.data) == ((8, None) if sent else (0, [7]))
