"""Turns: every client has its own, greater priority goes first, and nobody waits for ever."""

import asyncio
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from server.inference.fair_queue import LOW_PRIORITY_TURN, FairQueue, FairSemaphore


@dataclass(eq=False)
class Job:
    client: str
    name: object = None
    bucket: object = 0
    priority: str = "interactive"


def waiting(*jobs):
    turns = FairQueue()
    for job in jobs:
        turns.add(job)
    return turns


def run(turns, most=1):
    jobs = turns.pick(most)
    turns.take(jobs)
    return jobs


def names(turns, most=1):
    found = []
    while len(turns):
        found.append([job.name for job in run(turns, most)])
    return found


def test_one_client_is_served_in_its_order():
    assert names(waiting(*(Job("a", number) for number in range(5))), most=2) == [[0, 1], [2, 3], [4]]


def test_clients_take_turns_whatever_each_has_waiting():
    turns = waiting(*(Job("hog", f"h{number}") for number in range(4)), Job("a", "a0"), Job("b", "b0"), Job("b", "b1"))
    assert names(turns) == [["h0"], ["a0"], ["b0"], ["h1"], ["b1"], ["h2"], ["h3"]]


def test_a_run_is_filled_from_every_client_in_turn():
    turns = waiting(*(Job("hog", f"h{number}") for number in range(9)), Job("a", "a0"), Job("b", "b0"))
    assert names(turns, most=4) == [["h0", "a0", "b0", "h1"], ["h2", "h3", "h4", "h5"], ["h6", "h7", "h8"]]


def test_many_addresses_of_one_network_have_the_turns_of_one_neighbour():
    crowd = [Job(f"2001:db8:7:{number:x}::/64", f"c{number}") for number in range(4)]
    turns = waiting(*crowd, Job("198.51.100.7", "a0"), Job("198.51.100.7", "a1"), Job("alice", "k0"))
    assert names(turns) == [["c0"], ["a0"], ["k0"], ["c1"], ["a1"], ["c2"], ["c3"]]


def test_a_run_is_filled_from_every_network_in_turn():
    crowd = [Job(f"203.0.113.{number}", f"c{number}") for number in range(9)]
    assert names(waiting(*crowd, Job("198.51.100.7", "a0")), most=3)[0] == ["c0", "a0", "c1"]


def test_a_run_holds_one_bucket_and_the_other_leads_the_next():
    turns = waiting(Job("a", "a0", 1), Job("a", "a1", 1), Job("b", "b0", 2), Job("a", "a2", 2))
    assert names(turns, most=4) == [["a0", "a1"], ["b0", "a2"]]


def test_batch_work_waits_for_interactive_and_fills_its_runs():
    turns = waiting(Job("a", "b0", 1, "batch"), Job("b", "i0", 2), Job("c", "i1", 1))
    assert names(turns, most=2) == [["i0"], ["i1", "b0"]]


def test_batch_work_never_starves():
    turns = waiting(Job("patient", "mine", 1, "batch"))
    for number in range(LOW_PRIORITY_TURN):
        turns.add(Job("eager", number))
        if [job.name for job in run(turns)] == ["mine"]:
            break
    assert number == LOW_PRIORITY_TURN - 1


def test_picking_changes_nothing_and_removing_keeps_the_turn():
    first, second, other = Job("a", 1), Job("a", 2), Job("b", 3)
    turns = waiting(first, second, other)
    assert turns.pick(1) == turns.pick(1) == [first]
    assert turns.remove(first)
    assert not turns.remove(first)
    assert turns.pick(1) == [second]
    assert len(turns) == 2


JOBS = st.builds(Job, st.sampled_from("abcd"), st.none(), st.integers(0, 2), st.sampled_from(["interactive", "batch"]))


@given(st.lists(JOBS, max_size=40), st.integers(1, 5), st.data())
def test_everything_runs_once_in_runs_of_one_bucket(jobs, most, data):
    turns = waiting(*jobs)
    ran = []
    dropped = {id(job) for job in jobs if data.draw(st.booleans()) and turns.remove(job)}
    while batch := run(turns, most):
        assert len(batch) <= most
        assert len({job.bucket for job in batch}) == 1
        ran += batch
    assert {id(job) for job in ran} == {id(job) for job in jobs} - dropped
    assert len(ran) == len({id(job) for job in ran})
    assert len(turns) == 0
    for client in "abcd":  # within client, bucket and priority nobody overtakes
        for priority in ("interactive", "batch"):
            for bucket in range(3):
                mine = [j for j in ran if (j.client, j.priority, j.bucket) == (client, priority, bucket)]
                assert mine == [j for j in jobs if j in mine]


@given(
    st.integers(1, 1000),
    st.lists(st.integers(1, 30), max_size=6),
    st.integers(1, 8),
    st.integers(0, 20),
    st.integers(0, 2),
    st.data(),
)
def test_single_image_waits_for_a_run_of_each_other_client_at_most(hog, others, most, before, bucket, data):
    turns = FairQueue()
    for number in range(hog):
        turns.add(Job("hog", number, data.draw(st.integers(0, 2)) if number < 20 else number % 3))
    for place, count in enumerate(others):
        for _ in range(count):
            turns.add(Job(f"other {place}", bucket=place % 3))
    for _ in range(before):
        run(turns, most)
    mine = Job("single", bucket=bucket)
    turns.add(mine)
    clients = len({job.client for job in turns}) - 1
    runs = 0
    while mine not in run(turns, most):
        runs += 1
        turns.add(Job("hog", bucket=bucket))  # which goes on sending
    assert runs <= clients


def test_slots_are_given_to_clients_in_turn_and_to_so_many_at_once():
    async def scene():
        slots, order, working = FairSemaphore(2), [], 0

        async def work(client):
            nonlocal working
            async with slots.slot(client=client, priority="interactive"):
                working += 1
                assert working <= 2
                order.append(client)
                await asyncio.sleep(0.001)
                working -= 1

        await asyncio.gather(*(work(client) for client in ["hog"] * 8 + ["a", "b", "b"]))
        return order

    assert asyncio.run(scene()) == ["hog", "hog", "hog", "a", "b", "hog", "b", "hog", "hog", "hog", "hog"]


def test_slots_held_for_long_are_never_all_one_networks():
    async def scene():
        slots, held = FairSemaphore(32, leave_room=True), []

        async def hold(client):
            async with slots.slot(client=client, priority="interactive"):
                held.append(client)
                await asyncio.sleep(60)

        crowd = [asyncio.ensure_future(hold(f"203.0.113.{number}")) for number in range(64)]
        others = [asyncio.ensure_future(hold(name)) for name in ("alice", "198.51.100.7", "bob") for _ in range(2)]
        await asyncio.sleep(0.01)
        assert len(held) == 16 + 6
        for task in crowd[:16]:  # those that hold
            task.cancel()
        await asyncio.sleep(0.01)
        assert len(held) == 22 + 13, "as many again as are then left free"
        for task in (*crowd, *others):
            task.cancel()
        await asyncio.gather(*crowd, *others, return_exceptions=True)
        assert (slots._free, len(slots._waiting), +slots._held) == (32, 0, {})

    asyncio.run(scene())


@given(
    st.lists(st.integers(0, 6), max_size=12),
    st.lists(st.integers(0, 11), max_size=6),
    st.integers(1, 3),
    st.booleans(),
)
def test_slots_survive_whoever_leaves(steps, leavers, count, leave_room):
    async def scene():
        slots, finished = FairSemaphore(count, leave_room=leave_room), 0

        async def work(steps):
            nonlocal finished
            async with slots.slot(client=str(steps), priority="batch"):
                for _ in range(steps):
                    await asyncio.sleep(0)
            finished += 1

        tasks = [asyncio.ensure_future(work(step)) for step in steps]
        for leaver in leavers:
            await asyncio.sleep(0)
            if leaver < len(tasks):
                tasks[leaver].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert slots._free == count
        assert finished == sum(not task.cancelled() for task in tasks)

    asyncio.run(scene())
