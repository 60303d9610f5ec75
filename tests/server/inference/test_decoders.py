"""Decoding in threads and in processes: the same pixels, and in processes a bound on time and memory for each image."""

import asyncio
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.contract.image_file import FORMATS
from server.contract.manifest import Preprocessing
from server.errors import BrokenImage, Fault, ImageTooLarge, MemoryExhausted, NotReady, UnsupportedImage
from server.inference import decoders
from server.inference.decoders import ProcessDecoders, ThreadDecoders
from server.inference.drawing import Mark
from server.inference.images import Work
from server.request_context import RequestContext
from server.settings import Settings
from tests.server.fakes import picture
from tests.server.slow_pictures import many_scans, one_colour

RULES = Preprocessing(resize="shorter_longer", shorter=32, longer=64, mean=(0.5,) * 3, std=(0.25,) * 3).model_dump()
SOON = 10


def work(data, **changes):
    return Work(data, "image 2 of 3", 50_000_000, rules=RULES)._replace(**changes)


def run(made, *works, client=""):
    """The results, or faults, of `works` run at once."""

    async def each():
        async with asyncio.timeout(60):
            context = RequestContext(client=client)
            return await asyncio.gather(*(made.run(one, context) for one in works), return_exceptions=True)

    return asyncio.run(each())


@pytest.fixture(params=[ThreadDecoders, ProcessDecoders])
def either(request):
    made = request.param(Settings(decode_threads=1))
    made.start()
    yield made
    made.close()


@pytest.fixture
def processes():
    made = ProcessDecoders(Settings(decode_threads=1))
    made.start()
    yield made
    made.close()


def test_image_becomes_model_input(either):
    (result,) = run(either, work(picture((64, 128, 255), size=(90, 60))))
    assert result.size == (60, 90)
    assert result.input_size == (32, 48)
    assert result.pixels.dtype == np.float32
    expected = (np.asarray([64, 128, 255]) / 255 - 0.5) / 0.25
    assert np.allclose(result.pixels, expected[:, None, None], atol=1e-6)
    assert result.started <= result.decoded <= result.ended <= time.monotonic()


def test_drawing_is_a_png_of_the_image(either):
    (result,) = run(either, work(picture("white"), rules=None, marks=[Mark((5, 5, 30, 20), "dog", 0, 0.5)]))
    image = Image.open(io.BytesIO(result))
    assert (image.format, image.size) == ("PNG", (40, 30))
    assert len(image.getcolors()) > 2


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [(3000, 2000), (5000, 4000)])
def test_large_image_of_every_format_is_decoded_within_its_bounds(processes, form, size):
    options = {"method": 0} if form == "WEBP" else {}
    (result,) = run(processes, work(one_colour(size, form=form, **options)))
    assert result.size == size[::-1]


@pytest.mark.parametrize("options", [{"form": "JPEG", "comment": b"a comment"}, {"form": "JPEG"}, {"form": "PNG"}])
def test_file_of_many_bytes_is_decoded_within_its_bounds(processes, options):
    (result,) = run(processes, work(one_colour((300, 200), **options) + bytes(30 * 2**20)))
    assert not isinstance(result, Exception), result
    assert result.size == (200, 300)


@pytest.mark.parametrize("form", FORMATS)
def test_large_image_of_every_format_is_drawn_on(processes, form):
    options = {"method": 0} if form == "WEBP" else {}
    large = work(one_colour((5000, 4000), form=form, **options))._replace(rules=None, marks=())
    (result,) = run(processes, large)
    assert isinstance(result, bytes), result
    assert result.startswith(b"\x89PNG")


def test_refused_images_are_faults(either):
    faults = run(either, work(b"hello"), work(b""), work(picture(size=(20, 10)), max_pixels=100), work(picture()[:-40]))
    assert [type(fault) for fault in faults] == [UnsupportedImage, BrokenImage, ImageTooLarge, BrokenImage]
    assert all(str(fault).startswith("image 2 of 3 is ") for fault in faults)


def test_processes_and_threads_give_the_same_pixels():
    photo = Image.effect_noise((300, 200), 60).convert("RGB")
    file = io.BytesIO()
    photo.save(file, "JPEG")
    made: list[Any] = [ThreadDecoders(Settings(decode_threads=1)), ProcessDecoders(Settings(decode_threads=1))]
    (first,), (second,) = (run(one, work(file.getvalue())) for one in made)
    for one in made:
        one.close()
    assert np.array_equal(first.pixels, second.pixels)


def test_image_that_takes_too_long_is_refused_and_others_are_answered(processes):
    started = time.monotonic()
    slow, quick = run(processes, work(many_scans()), work(picture()))
    assert isinstance(slow, ImageTooLarge)
    assert "image 2 of 3 takes too long to decode for its size" in str(slow)
    assert not isinstance(quick, Fault)
    assert time.monotonic() - started < SOON


def test_slow_images_of_one_client_keep_no_other_waiting(processes):
    async def both():
        slow = [
            asyncio.ensure_future(processes.run(work(many_scans()), RequestContext(client="10.0.0.1"))) for _ in "abcd"
        ]
        await asyncio.sleep(0.2)
        for _ in range(5):
            assert (await processes.run(work(picture()), RequestContext(client="10.9.0.1"))).size == (30, 40)
        waiting = [one for one in slow if not one.done()]
        for one in slow:
            one.cancel()
        return len(waiting)

    assert asyncio.run(both()) >= 3


def test_deadline_ends_the_work_and_frees_its_place(processes):
    async def late():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await processes.run(work(many_scans()), RequestContext())
        started = time.monotonic()
        await asyncio.gather(*(processes.run(work(picture()), RequestContext()) for _ in range(8)))
        assert time.monotonic() - started < 1

    asyncio.run(late())


def until_ended(pids):
    give_up = time.monotonic() + SOON
    while any(Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def decoder_pids():
    parent = decoders.FORKS._process.pid
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGSEGV, BrokenImage), (signal.SIGKILL, MemoryExhausted)],
)
def test_process_that_dies_fails_its_image_only(processes, number, kind):
    async def dying():
        task = asyncio.ensure_future(processes.run(work(many_scans()), RequestContext()))
        await asyncio.sleep(0.3)
        (busy,) = (pid for pid in decoder_pids() if "R" in Path(f"/proc/{pid}/stat").read_text().split()[2])
        os.kill(busy, number)
        with pytest.raises(kind):
            await task

    asyncio.run(dying())
    assert run(processes, work(picture()))[0].size == (30, 40)


def test_process_that_died_idle_fails_no_image(processes):
    run(processes, work(picture()))
    for pid in (pids := decoder_pids()):
        os.kill(pid, signal.SIGKILL)
    until_ended(pids)
    assert [result.size for result in run(processes, *[work(picture())] * 4)] == [(30, 40)] * 4


def test_forking_process_that_died_is_started_again(processes):
    run(processes, work(picture()))
    pids = decoder_pids()
    os.kill(decoders.FORKS._process.pid, signal.SIGKILL)
    until_ended(pids)
    assert [result.size for result in run(processes, *[work(picture())] * 4)] == [(30, 40)] * 4


def test_large_image_is_decoded_and_one_that_takes_too_much_memory_is_refused():
    made = ProcessDecoders(Settings(decode_threads=1, memory_limit_bytes=2**29))
    large, larger, small = run(made, work(one_colour((6000, 6000))), work(one_colour((7000, 7000), progressive=True)),
                               work(picture()))  # fmt: skip
    made.close()
    assert large.size == (6000, 6000)
    assert isinstance(larger, ImageTooLarge)
    assert "image 2 of 3 would take 468 MiB to decode, at most 256 MiB" in str(larger)
    assert small.size == (30, 40)


def test_closing_waits_for_no_image(processes):
    async def stopped():
        task = asyncio.ensure_future(processes.run(work(many_scans()), RequestContext()))
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await asyncio.to_thread(processes.close)
        assert time.monotonic() - started < 1
        with pytest.raises(NotReady):
            await task
        with pytest.raises(NotReady):
            await processes.run(work(picture()), RequestContext())

    asyncio.run(stopped())
