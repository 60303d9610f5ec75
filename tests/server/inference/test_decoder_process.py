"""A decoder's bounds, on memory and on processor time."""

import multiprocessing
import resource
import signal

import pytest

from server.inference import decoder_process
from server.inference.decoder_process import Bounds, data_bytes, memory_file
from server.inference.images import Work
from tests.server.fakes import picture
from tests.server.slow_pictures import many_scans, one_colour

WORK = Work(picture(), "the image", 50_000_000)


def in_child(function, *args, start="fork"):
    """The answer of `function` in another process, or the signal that ended it."""
    context = multiprocessing.get_context(start)
    answers, send = context.Pipe(duplex=False)
    child = context.Process(target=sent, args=(send, function, *args))
    child.start()
    child.join(60)
    return answers.recv() if answers.poll() else -child.exitcode


def sent(send, function, *args):
    send.send(function(*args))


def bounded(work, allowance):
    message, file = Bounds(data_bytes()).run(work, allowance)
    return message.decode(), file is not None


def test_image_is_worked_on_within_its_bounds():
    assert in_child(bounded, WORK, 2**27) == ("{}", True)


def test_image_that_needs_more_memory_says_how_much():
    message, worked = in_child(bounded, WORK._replace(data=one_colour((5000, 5000))), 2**27)
    assert message.startswith('{"needs": 3')
    assert not worked


def bounded_by_too_little(work, allowance):
    pytest.MonkeyPatch().setattr(decoder_process, "memory_bytes", lambda work, image: 0)
    return bounded(work, allowance)


def test_memory_beyond_what_an_image_should_take_is_refused():
    # A forked process may already have this much on its heap, left by other tests.
    work = WORK._replace(data=one_colour((5000, 5000)))
    message, worked = in_child(bounded_by_too_little, work, 2**27, start="spawn")
    assert message.startswith('{"fault": "OversizedPicture", "detail": "the image takes more memory to decode')
    assert not worked


def test_time_beyond_what_an_image_should_take_ends_the_process(monkeypatch):
    monkeypatch.setattr(decoder_process, "SECONDS", 0.2)
    assert in_child(bounded, WORK._replace(data=many_scans()), 2**27) == signal.SIGPROF


def test_bounds_end_with_the_image():
    def limits():
        Bounds(data_bytes()).run(WORK._replace(data=b"no image"), 2**27)
        return resource.getrlimit(resource.RLIMIT_DATA)[0], signal.getitimer(signal.ITIMER_PROF)[0]

    assert in_child(limits) == (resource.getrlimit(resource.RLIMIT_DATA)[0], 0.0)


def test_unforeseen_error_is_told_with_its_traceback(monkeypatch):
    monkeypatch.setattr(decoder_process, "draw_on", lambda work, image: 1 / 0)
    message, worked = in_child(bounded, WORK, 2**27)
    assert "ZeroDivisionError" in message
    assert not worked


@pytest.mark.parametrize("parts", [(), (b"",), (b"ab", memoryview(b"cde"))])
def test_memory_file_holds_its_parts(parts):
    with open(memory_file(*parts), "rb") as file:
        file.seek(0)
        assert file.read() == b"".join(parts)
