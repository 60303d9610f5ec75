"""Calls about many images: a bad one is named by its path and spares the others, progress is told."""

import asyncio

import httpx
import pytest

from openset import AsyncClient, Client, ImageError, ProblemError

from .conftest import Recorder


@pytest.fixture
def folder(tmp_path):
    """Five pictures, the third of which the server cannot read."""
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(b"bad" if number == 2 else str(number).encode())
    return paths


def test_error_names_the_path_of_the_bad_picture(connect, folder):
    with pytest.raises(ProblemError) as caught:
        connect(Recorder(max_images=2)).detect(folder, labels="dog")
    error = caught.value
    assert (error.index, error.image, error.detail) == (2, str(folder[2]), f"{folder[2]} is damaged")
    assert error.__notes__ == ["the request had images 3 to 4 of 5"]
    assert str(folder[2]) in str(error)


def test_skipped_picture_leaves_the_others_their_results_in_their_places(connect, folder):
    folder[4].unlink()
    answer = connect(Recorder(max_images=2)).detect(folder, labels="dog", on_error="skip")
    assert [result.labels[0] for result in answer.results[:2]] == ["0", "1"]
    assert answer.results[3].labels == ["3"]
    assert [(problem.index, problem.image, problem.status) for problem in answer.problems] == [
        (2, str(folder[2]), 422),
        (4, str(folder[4]), 0),
    ]
    assert (answer.results[4].width, answer.results[4].detections) == (0, [])


def test_matrix_and_embeddings_keep_the_places_of_skipped_pictures(connect, folder):
    folder[0].unlink()
    client = connect(Recorder(max_images=2))
    answer = client.similarity(folder[:2], "x", embeddings=True, on_error="skip")
    assert (answer.similarity, answer.embeddings.images) == ([[], [1.0]], [[], [1.0]])
    assert client.classify(folder[:2], "x", on_error="skip").results[0].scores == []


def test_missing_file_is_an_error_unless_it_is_skipped(connect, folder):
    folder[0].unlink()
    client = connect(Recorder())
    with pytest.raises(ImageError, match="there is no file"):
        client.detect(folder, labels="dog")
    with pytest.raises(ImageError, match="none of 1 images can be sent"):
        client.detect(folder[:1], labels="dog", on_error="skip")
    with pytest.raises(ValueError, match=r'on_error must be "raise" or "skip"'):
        client.detect(folder, labels="dog", on_error="ignore")


def test_progress_is_told_after_each_request(connect, folder):
    told = []
    client = connect(Recorder(max_images=2))
    client.detect(folder, labels="dog", on_error="skip", progress=lambda *numbers: told.append(numbers))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_embed_takes_images_texts_or_both(connect):
    server = Recorder()
    client = connect(server)
    assert client.embed([b"1", b"3"]).images == [[1.0], [3.0]]
    assert client.embed(texts=["a dog"]).texts == [[2.0]]
    with pytest.raises(ImageError, match="at least one image"):
        client.embed()


def requests(folder):
    return [{"images": path, "labels": ["dog"]} for path in folder]


def test_iterator_gives_answers_and_errors_in_order(folder):
    with Client("http://a.test", transport=httpx.MockTransport(Recorder())) as client:
        check(list(client.each(iter(requests(folder)), parallel=2)), folder)


def test_iterator_for_asyncio_does_too(folder):
    async def ask():
        async with AsyncClient("http://a.test", transport=httpx.MockTransport(Recorder())) as client:
            return [found async for found in client.each(iter(requests(folder)), parallel=2)]

    check(asyncio.run(ask()), folder)


def check(found, folder):
    assert [each.results[0].labels for place, each in enumerate(found) if place != 2] == [["0"], ["1"], ["3"], ["4"]]
    assert isinstance(found[2], ProblemError)
    assert found[2].image == str(folder[2])
