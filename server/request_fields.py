"""Types of a request's fields: texts, lists of them, encoded images, each with a validator that names the fault."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    FailFast,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from server.contract.list_text import ListTextError, check_caption, split_names, split_sentences
from server.errors import BrokenImage, Fault, UrlRefused
from server.json_text import decode_base64
from server.settings import MAX_ITEMS

# A red disc, 16 x 16 pixels: a working example that is short.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAS0lEQVR42mP88OEDAymAiYFEQLIGFkyhG3p6cLbGpUsEbEBWjclF"
    "14ApjSnIhF81phTtQ4kCDZghiFWKCZcELkEm/NKYRjAOvsQHAFrOGsECaDVqAAAAAElFTkSuQmCC"
)
_MAX_URL = 2048
_ONE_EACH = "give one number for each label, in their order, like [0.4, null]; null stands for box_threshold"
Item = TypeVar("Item")
Parse = Callable[["RepeatedField"], Sequence[str | float | None]]


class RepeatedField(tuple[str, ...]):
    """The values of one field of a form or a query, each of which may be a list by itself."""

    __slots__ = ()


def _list_of(parse: Parse) -> BeforeValidator:
    """A validator that makes a list of a text, or of the texts of a repeated field, and leaves an array as it is."""

    def listed(value: object) -> object:
        if isinstance(value, str):
            value = RepeatedField((value,))
        if not isinstance(value, RepeatedField):
            return value
        try:
            return parse(value)
        except ListTextError as error:
            raise PydanticCustomError("list_text", "{reason}", {"reason": str(error)}) from None

    return BeforeValidator(listed)


def _numbers(texts: RepeatedField) -> list[float | None]:
    """Numbers in texts, of which "null" and nothing between two commas are None."""
    parts = [part.strip() for text in texts for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    try:
        return [None if part in ("", "null") else float(part) for part in parts]
    except ValueError:
        raise ListTextError(_ONE_EACH) from None


def _is_array(value: object) -> object:
    if not isinstance(value, str | list | tuple):
        raise PydanticCustomError("numbers", "{reason}", {"reason": _ONE_EACH})
    return value


def _image(value: object, info: ValidationInfo) -> bytes | Fault:
    if isinstance(value, bytes | Fault):  # a file from a form; an image that could not be got
        return value
    if not isinstance(value, str):
        return _refused(info, BrokenImage, "must be base64 text (in a form: a file)")
    try:
        return decode_base64((info.context or {}).get(value, value))
    except ValueError:
        return _refused(info, BrokenImage, "is not valid base64")


def _url(value: object, info: ValidationInfo) -> str | Fault:
    if not isinstance(value, str):
        return _refused(info, UrlRefused, "has a URL that is no text")
    if not 1 <= len(value) <= _MAX_URL:
        return _refused(info, UrlRefused, f"has a URL that is empty or of more than {_MAX_URL} characters")
    return value


def _refused(info: ValidationInfo, kind: type[Fault], reason: str) -> Fault:
    """The fault that stands in an image's place where the request's `on_error`, a field before it, is skip."""
    if info.data.get("on_error") != "skip":
        raise PydanticCustomError("image", "the image {reason}", {"reason": reason})
    return kind(f"the image {reason}")


def _visible(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("text", "a text must contain a visible character")
    return value


def _phrases_end(value: str) -> str:
    try:
        return check_caption(value)
    except ListTextError as error:
        raise PydanticCustomError("list_text", "{reason}", {"reason": str(error)}) from None


def _has_placeholder(value: object) -> object:
    if isinstance(value, str) and "{}" not in value:
        raise PydanticCustomError("template", "a template must contain {}, which is replaced by the label")
    return value


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not `min_length`, which also reports a list whose items were refused.
    if not value:
        raise PydanticCustomError("empty", "give at least one")
    return value


ImageBytes = Annotated[
    bytes | Fault,
    PlainValidator(_image),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "Base64, or a data: URL."}),
]
Url = Annotated[
    str | Fault, PlainValidator(_url), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _MAX_URL})
]
# The length comes first: after a validator its message would speak of "items".
Text = Annotated[str, StringConstraints(max_length=1000), BeforeValidator(_visible)]
Caption = Annotated[str, StringConstraints(max_length=10_000), BeforeValidator(_visible), AfterValidator(_phrases_end)]
Template = Annotated[str, StringConstraints(max_length=1000), BeforeValidator(_has_placeholder)]
# Parsing ends at the first wrong item: a million errors would take gigabytes.
Items = Annotated[tuple[Item, ...], FailFast(), Field(max_length=MAX_ITEMS)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
AtLeastOne = AfterValidator(_not_empty)
Names = Annotated[Items[Text], _list_of(lambda texts: [name for text in texts for name in split_names(text)])]
Numbers = Annotated[Items[Ratio | None], _list_of(_numbers), BeforeValidator(_is_array)]
Sentences = Annotated[Items[Text], _list_of(split_sentences)]
Templates = Annotated[Items[Template], _list_of(lambda texts: split_sentences(texts, is_one=lambda part: "{}" in part))]
# A URL may have commas.
Urls = Annotated[Items[Url], _list_of(lambda texts: split_sentences(texts, is_one=lambda part: False))]
