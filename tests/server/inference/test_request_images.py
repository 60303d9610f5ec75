"""Work on the images of a request: one's fault ends it, or is its result."""

import asyncio

import pytest

from server.errors import BrokenImage, InvalidRequest, NotReady
from server.inference.request_images import (
    aligned,
    check_image_count,
    each_image,
    gather,
    image_names,
    image_problems,
    succeeded,
)
from server.request_context import RequestContext
from server.settings import Settings


async def work(data, name):
    if data == b"bad":
        raise BrokenImage(f"{name} is damaged")
    if data == b"stop":
        raise NotReady("stopping")
    return data.decode()


def outcomes(*pictures, skip, context=None):
    return asyncio.run(gather(each_image(pictures, work, context or RequestContext(), skip=skip)))


def test_fault_of_an_image_is_its_result_where_it_is_skipped():
    found = outcomes(b"a", b"bad", b"c", skip=True)
    assert succeeded(found) == ["a", "c"]
    assert aligned(found, ["A", "C"], lambda: "") == ["A", "", "C"]
    (problem,) = image_problems(found)
    assert (problem.index, problem.detail) == (1, "image 2 of 3 is damaged")


def test_fault_of_an_image_ends_the_request_otherwise_and_tells_its_index():
    with pytest.raises(BrokenImage) as caught:
        outcomes(b"a", b"bad", skip=False)
    assert caught.value.image_index == 1


def test_other_faults_are_never_skipped():
    with pytest.raises(NotReady):
        outcomes(b"a", b"stop", skip=True)


def test_image_that_could_not_be_got_has_its_fault_and_names_are_the_contexts():
    context = RequestContext(image_names=("x.jpg", "y.jpg"))
    found = outcomes(BrokenImage("gone"), b"bad", skip=True, context=context)
    assert [problem.detail for problem in image_problems(found)] == ["gone", "y.jpg is damaged"]


def test_no_fault_is_no_problem():
    assert image_problems(outcomes(b"a", skip=True)) is None


def test_images_are_counted_and_named():
    assert image_names(1) == ["the image"]
    assert image_names(2) == ["image 1 of 2", "image 2 of 2"]
    with pytest.raises(InvalidRequest, match="3 images, at most 2"):
        check_image_count(3, Settings(max_images=2))
