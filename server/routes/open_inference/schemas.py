"""Request and response objects, named as in the protocol's specification."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.request_fields import EXAMPLE_IMAGE
from server.settings import MAX_ITEMS

Name = Annotated[str, Field(max_length=200)]
Datatype = Literal["BYTES", "FP32", "INT64", "UINT8"]
Parameters = dict[Name, bool | int | float | str]
# Parsing ends at the first value that is not a string, as in the schemas of the other endpoints.
Strings = Annotated[list[str], Field(max_length=MAX_ITEMS, fail_fast=True)]
Rows = Annotated[list[Strings], Field(max_length=MAX_ITEMS, fail_fast=True)]


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class InputParameters(_Object):
    """Encoding of an input."""

    binary_data_size: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None


class OutputParameters(_Object):
    """Encoding of an output."""

    binary_data: Annotated[bool, Field(strict=True)] | None = None


class RequestInput(_Object):
    """An input tensor: texts in `data`, flat or in rows, or `binary_data_size` bytes behind the JSON."""

    name: Name
    shape: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(max_length=8)
    datatype: Name
    parameters: InputParameters = InputParameters()
    data: Strings | Rows | None = None


class RequestOutput(_Object):
    """A requested output; with `binary_data` it is sent as bytes behind the JSON."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Object):
    """The inputs of an inference."""

    id: str | None = Field(None, max_length=1000, description="Returned with the response.")
    parameters: Parameters = Field({}, description="Options such as thresholds, named as in the task's own endpoint.")
    inputs: list[RequestInput] = Field(
        max_length=MAX_ITEMS,
        description="`image`, and `labels`, `prompt` or `texts`.",
        examples=[
            [
                {"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_IMAGE]},
                {"name": "labels", "datatype": "BYTES", "shape": [2], "data": ["a red ball", "a dog"]},
            ]
        ],
    )
    outputs: list[RequestOutput] | None = Field(None, max_length=100, description="Outputs to return; all by default.")


class ResponseOutput(BaseModel):
    """An output tensor; `data` is flat, in row-major order, unless it follows the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float | int | str] | None = None


class InferResponse(BaseModel):
    """The outputs of an inference."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    """An input or output of a model; -1 is any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(BaseModel):
    """The inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """The server's name, version and protocol extensions."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """True: the process is healthy."""

    live: bool = True


class ServerReady(BaseModel):
    """True: all models are ready."""

    ready: bool = True


class ModelReady(BaseModel):
    """True: the model is ready."""

    name: str
    ready: bool = True
