"""Images of one request: their number, their names in errors, and work on each, whose faults may be kept apart."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from server.errors import IMAGE_FAULTS, Fault, FieldFault, InvalidRequest, problem
from server.request_context import RequestContext
from server.schemas import ImageProblem
from server.settings import Settings

T = TypeVar("T")
Row = TypeVar("Row")


def check_image_count(count: int, settings: Settings) -> None:
    """InvalidRequest for more images than a request may have."""
    if count > settings.max_images:
        raise InvalidRequest([FieldFault("images", f"{count} images, at most {settings.max_images} are accepted")])


def image_names(count: int) -> list[str]:
    """Names of a request's images in errors."""
    return ["the image"] if count == 1 else [f"image {number} of {count}" for number in range(1, count + 1)]


def each_image(
    pictures: Sequence[bytes | Fault],
    work: Callable[[bytes, str], Awaitable[T]],
    context: RequestContext,
    *,
    skip: bool,
) -> list[Coroutine[Any, Any, T | Fault]]:
    """The work on each image and its name; with `skip`, a fault of one image is its result, else it is raised."""

    async def one(index: int, data: bytes | Fault, name: str) -> T | Fault:
        try:
            if isinstance(data, Fault):
                raise data
            return await work(data, name)
        except IMAGE_FAULTS as fault:
            fault.image_index = index
            if not skip:
                raise
            return fault

    names = context.image_names or image_names(len(pictures))
    return [one(index, *image) for index, image in enumerate(zip(pictures, names, strict=True))]


async def gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def succeeded(outcomes: Sequence[T | Fault]) -> list[T]:
    """Results without the faults."""
    return [outcome for outcome in outcomes if not isinstance(outcome, Fault)]


def aligned(outcomes: Sequence[object], rows: Iterable[Row], empty: Callable[[], Row]) -> list[Row]:
    """A row for each outcome: the next of `rows`, an empty one for a fault."""
    following = iter(rows)
    return [empty() if isinstance(outcome, Fault) else next(following) for outcome in outcomes]


def image_problems(outcomes: Sequence[object]) -> list[ImageProblem] | None:
    """Problems of the images that have no result, None where all have one."""
    faults = [
        ImageProblem.model_validate({"index": index} | problem(outcome))
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Fault)
    ]
    return faults or None
