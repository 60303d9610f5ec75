"""The service's proofs in short: mixed requests, overload, SIGTERM under load, and who waits for whom."""

import asyncio
import statistics
from dataclasses import replace

import pytest

from tests.benchmarks import drain, overload, scheduling, soak
from tests.benchmarks.live import serving


def test_mixed_requests_get_the_answers_they_may_get_and_leave_nothing_behind(tmp_path):
    with serving(tmp_path, *soak.FLAGS) as server:
        # A short run is all warm-up, in which memory may still grow.
        assert soak.soak(server, requests=160, rounds=3, may_grow=0.5) == []
    assert server.log.read_text() == "", "no warning, no error"


def test_overload_is_refused_at_once_and_the_accepted_wait_for_no_more_than_the_queue_holds(tmp_path):
    with serving(tmp_path, *overload.FLAGS) as server:
        found = asyncio.run(overload.overload(server, seconds=2))
    assert found.refused
    assert found.others == {}
    assert found.waited_for <= overload.MAX_QUEUE + 2 * overload.MAX_BATCH
    refused, accepted = (
        statistics.median(answer.seconds for answer in kind) for kind in (found.refused, found.accepted)
    )
    assert refused < accepted / 2
    assert found.heeded * 2 > len(found.again)


def test_terminated_server_answers_all_that_reached_it_and_lets_nobody_new_in(tmp_path):
    with serving(tmp_path, *drain.FLAGS) as server:
        drained = asyncio.run(drain.drain(server))
    assert drained.unanswered == []
    assert drained.answered_late
    assert "refused" in {one.answer for one in drained.sent[drained.before :]}
    assert (drained.status, drained.seconds <= drain.WITHIN_S) == (0, True)


def test_clients_take_turns_and_what_nobody_waits_for_does_not_run(tmp_path):
    with serving(tmp_path, *scheduling.FLAGS) as server:
        assert scheduling.report(asyncio.run(scheduling.scenes(server, images=400))) == 0


@pytest.mark.parametrize(("resident", "wrong"), [([100, 100, 104, 100], 0), ([100, 110, 120, 130], 1)])
def test_soak_tells_memory_that_grows_from_memory_that_varies(resident, wrong):
    held = [soak.Held(1000 * n, mib * 2**20, 8, 18, 3, 0, 0, 0, 0) for n, mib in enumerate(resident)]
    assert len(soak.growth(held, soak.MAY_GROW)) == wrong


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks"])
def test_soak_tells_what_else_grows(name):
    warm = soak.Held(1000, 2**20, 8, 18, 3, 0, 0, 0, 0)
    grown = replace(warm, requests=2000, **{name: 100})
    assert soak.growth([warm, grown], soak.MAY_GROW) == [f"{name} grew from {getattr(warm, name)} to 100"]
