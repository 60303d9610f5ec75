"""The protocol's objects, as its specification names them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.schemas import EXAMPLE_IMAGE, MAX_ITEMS

Name = Annotated[str, Field(max_length=200)]
Datatype = Literal["BYTES", "FP32", "INT64", "UINT8"]
Parameters = dict[Name, bool | int | float | str]


# The first value that is no string ends the reading, as in the schemas of the other endpoints.
Strings = Annotated[list[str], Field(max_length=MAX_ITEMS, fail_fast=True)]
Rows = Annotated[list[Strings], Field(max_length=MAX_ITEMS, fail_fast=True)]


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class InputParameters(_Object):
    """How an input is sent."""

    binary_data_size: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None


class OutputParameters(_Object):
    """How an output is to be sent."""

    binary_data: Annotated[bool, Field(strict=True)] | None = None


class RequestInput(_Object):
    """An input tensor: texts in `data`, flat or in rows, or what follows the JSON as `binary_data_size` bytes."""

    name: Name
    shape: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(max_length=8)
    datatype: Name
    parameters: InputParameters = InputParameters()
    data: Strings | Rows | None = Field(None)


class RequestOutput(_Object):
    """An output that is asked for; `binary_data` true sends it behind the JSON."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Object):
    """What to infer from."""

    id: str | None = Field(None, max_length=1000, description="Comes back with the answer.")
    parameters: Parameters = Field({}, description="Thresholds and the like, by the names of the task's own endpoint.")
    inputs: list[RequestInput] = Field(
        max_length=MAX_ITEMS,
        description="`image` and what to look for: `labels`, `prompt` or `texts`.",
        examples=[
            [
                {"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_IMAGE]},
                {"name": "labels", "datatype": "BYTES", "shape": [2], "data": ["a red ball", "a dog"]},
            ]
        ],
    )
    outputs: list[RequestOutput] | None = Field(None, max_length=100, description="All, unless some are named.")


class ResponseOutput(BaseModel):
    """An output tensor; `data` is flat, row by row, unless it follows the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float | int | str] | None = None


class InferResponse(BaseModel):
    """What was inferred."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    """A tensor that a model takes or gives; -1 is any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """Which server this is, and which extensions of the protocol it has."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process is healthy."""

    live: bool = True


class ServerReady(BaseModel):
    """Whether all models can answer."""

    ready: bool = True


class ModelReady(BaseModel):
    """Whether a model can answer."""

    name: str
    ready: bool = True
