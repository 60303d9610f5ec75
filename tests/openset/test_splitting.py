"""Splitting of images over requests, within the limits that the server tells."""

import httpx
from hypothesis import given
from hypothesis import strategies as st

from openset import Client
from openset.images import Url
from openset.splitting import Limits, split

from .conftest import Recorder


def test_images_are_taken_only_as_they_are_needed():
    taken = []

    def images():
        for place in range(5):
            taken.append(place)
            yield b"x"

    batches = split(images(), {}, Limits(max_images=2))
    assert next(batches) == [b"x", b"x"]
    assert taken == [0, 1, 2]


def test_files_and_urls_are_never_in_one_batch():
    batches = split([b"1", Url("http://2"), Url("http://3"), b"4"], {}, Limits())
    assert list(batches) == [[b"1"], [Url("http://2"), Url("http://3")], [b"4"]]


def test_image_beyond_the_bytes_of_a_request_is_sent_alone_for_the_server_to_judge(connect):
    server = Recorder(max_images=9, max_body_bytes=4000)
    connect(server).detect([b"1", b"2" * 9000, b"3"], labels="dog")
    assert server.counts == [1, 1, 1]


@given(
    st.lists(st.integers(0, 4000), min_size=2, max_size=12),
    st.lists(st.text(st.characters(codec="utf-8")), max_size=5),
    st.integers(1, 5),
)
def test_no_request_has_more_images_or_bytes_than_the_server_takes(sizes, labels, max_images):
    server = Recorder(max_images=max_images, max_body_bytes=9000)
    with Client("http://openset.test", transport=httpx.MockTransport(server)) as client:
        images = [b"%04d" % place + b"x" * size for place, size in enumerate(sizes)]
        answer = client.detect(images, labels=labels)
    assert [result.labels[0].encode() for result in answer.results] == images
    for request, count in zip(server.asked, server.counts, strict=True):
        assert count <= max_images
        assert count == 1 or len(request.read()) <= 9000
