"""Schemas of the protocol: strict requests, responses without empty fields."""

import pytest
from pydantic import ValidationError

from server.routes.open_inference.schemas import InferRequest, InferResponse, ResponseOutput
from server.settings import MAX_ITEMS

TEXTS = {"name": "labels", "shape": [1], "datatype": "BYTES", "data": ["dog"]}


def test_texts_may_be_flat_or_in_rows():
    assert InferRequest(inputs=[TEXTS]).inputs[0].data == ["dog"]
    assert InferRequest(inputs=[TEXTS | {"data": [["dog"], ["cat"]]}]).inputs[0].data == [["dog"], ["cat"]]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1]},
        {"shape": [2**63]},
        {"shape": [1] * 9},
        {"data": [7]},
        {"data": ["x"] * (MAX_ITEMS + 1)},
        {"name": "x" * 201},
        {"parameters": {"binary_data_size": "7"}},
        {"parameters": {"binary_data_size": -1}},
        {"parameters": {"shared_memory_region": "a"}},
        {"colour": "red"},
    ],
)
def test_input_out_of_bounds_or_unknown_is_refused(change):
    with pytest.raises(ValidationError):
        InferRequest(inputs=[TEXTS | change])


def test_flag_of_an_output_must_be_a_boolean():
    with pytest.raises(ValidationError):
        InferRequest(inputs=[], outputs=[{"name": "boxes", "parameters": {"binary_data": 1}}])


def test_response_leaves_out_what_it_does_not_have():
    outputs = [ResponseOutput(name="scores", datatype="FP32", shape=[1], data=[0.5])]
    text = InferResponse(model_name="m", model_version="1", outputs=outputs).model_dump_json(exclude_none=True)
    assert text == (
        '{"model_name":"m","model_version":"1","outputs":[{"name":"scores","datatype":"FP32","shape":[1],"data":[0.5]}]}'
    )
