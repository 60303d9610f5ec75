"""A job's parts are requests of their own; what is done is let go of."""

from server.errors import BrokenImage
from server.jobs.job import Job, without_images
from server.memory.client_shares import ClientShares
from server.requests import DetectRequest, EmbedRequest


def job(request, *, by_url=False):
    shares = ClientShares(100_000, kept=0)
    return Job(
        id="x",
        owner="alice",
        endpoint="/detect",
        request=without_images(request),
        by_url=by_url,
        priority="batch",
        place=shares.hold("alice"),
        memory=shares.hold("alice"),
        pictures=[*request.pictures, *request.urls],
    )


def test_parts_have_all_images_in_order_with_their_names_and_the_other_fields():
    fault = BrokenImage("gone")
    parts = list(job(DetectRequest(images=[b"a", fault, b"c"], labels=["dog"], on_error="skip")).parts(2))
    assert [(part.first, part.request.pictures) for part in parts] == [(0, (b"a", fault)), (2, (b"c",))]
    assert [name for part in parts for name in part.names] == ["image 1 of 3", "image 2 of 3", "image 3 of 3"]
    assert {(part.request.labels, part.request.on_error) for part in parts} == {(("dog",), "skip")}


def test_urls_stay_urls():
    request = DetectRequest(image_urls=["https://a", "https://b"], labels=["dog"])
    parts = list(job(request, by_url=True).parts(1))
    assert [part.request.urls for part in parts] == [("https://a",), ("https://b",)]


def test_texts_alone_are_one_part():
    (part,) = job(EmbedRequest(texts=["a"])).parts(8)
    assert (part.request.pictures, part.names) == ((), ())


def test_images_that_are_done_are_let_go_of():
    made = job(DetectRequest(images=[b"a" * 1000, b"b" * 2000], labels=["dog"]))
    before = made.needed_bytes
    made.finished(next(made.parts(1)))
    assert made.needed_bytes == before - 1000
    assert (made.done, made.images) == (1, 2)
