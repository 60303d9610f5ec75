"""Short runs of the load benchmarks: soak, overload, drain, scheduling, attacks."""

import asyncio
import statistics
from dataclasses import replace

import pytest

from tests.benchmarks import attacks, drain, overload, scheduling, soak
from tests.benchmarks.live_server import serving


def test_mixed_requests_get_acceptable_answers_and_leave_nothing_behind(tmp_path):
    with serving(tmp_path, *soak.FLAGS) as server:
        # A short run is all warm-up, in which memory may still grow.
        assert soak.soak(server, requests=160, rounds=3, max_growth=0.5) == []
    assert server.log.read_text() == "", "no warning, no error"


@pytest.mark.slow
def test_overload_is_refused_at_once_and_accepted_requests_wait_for_at_most_a_full_queue(tmp_path):
    with serving(tmp_path, *overload.FLAGS) as server:
        found = asyncio.run(overload.overload(server, seconds=2))
    assert found.refused
    assert found.others == {}
    assert found.waited_for <= overload.MAX_QUEUE + 2 * overload.MAX_BATCH
    refused, accepted = (
        statistics.median(answer.seconds for answer in kind) for kind in (found.refused, found.accepted)
    )
    assert refused < accepted / 2
    assert found.retried_successfully * 2 > len(found.retried)


@pytest.mark.slow
def test_terminated_server_answers_accepted_requests_and_refuses_new_connections(tmp_path):
    with serving(tmp_path, *drain.FLAGS) as server:
        drained = asyncio.run(drain.drain(server))
    assert drained.unanswered == []
    assert drained.answered_late
    assert "refused" in {one.answer for one in drained.sent[drained.before :]}
    assert (drained.status, drained.seconds <= drain.TIMEOUT_S) == (0, True)


@pytest.mark.slow
def test_clients_are_served_round_robin_and_abandoned_requests_do_not_run(tmp_path):
    with serving(tmp_path, *scheduling.FLAGS) as server:
        assert scheduling.report(asyncio.run(scheduling.run_scenarios(server, images=400))) == 0


def test_attacks_keep_nobody_waiting_and_take_no_more_memory_than_there_is(tmp_path):
    with serving(tmp_path, *attacks.FLAGS) as server:
        # Other tests run beside it: 0.1 s, the command's own bound, is for an idle machine.
        seen = attacks.run_attacks(server, list(attacks.ATTACKS), seconds=1, livez_within_s=1.0)
        faults = [fault for _, wrong in seen for fault in wrong]
    assert faults == []
    assert server.log.read_text() == "", "no error"


@pytest.mark.parametrize(("resident", "wrong"), [([100, 100, 104, 100], 0), ([100, 110, 120, 130], 1)])
def test_soak_tells_memory_that_grows_from_memory_that_varies(resident, wrong):
    held = [soak.Resources(1000 * n, mib * 2**20, 8, 18, 3, 0, 0, 0, 0) for n, mib in enumerate(resident)]
    assert len(soak.growth(held, soak.MAX_GROWTH)) == wrong


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks"])
def test_soak_tells_what_else_grows(name):
    warm = soak.Resources(1000, 2**20, 8, 18, 3, 0, 0, 0, 0)
    grown = replace(warm, requests=2000, **{name: 100})
    assert soak.growth([warm, grown], soak.MAX_GROWTH) == [f"{name} grew from {getattr(warm, name)} to 100"]
