"""Short runs of the attacks: /livez goes on, and another client is answered."""

import pytest

from tests.benchmarks.attacks_service import ATTACKS, FLAGS, LIVE_WITHIN_S, impact, processor
from tests.benchmarks.live_server import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("attacks"), *FLAGS) as live:
        yield live


@pytest.fixture(scope="module")
def quiet(server):
    return impact(server, processor, seconds=2)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attack_keeps_nobody_waiting(server, quiet, attack):
    found = impact(server, attack, seconds=2)
    # A machine that does other work makes a quiet server wait too.
    assert found.median_s < LIVE_WITHIN_S + 20 * quiet.median_s
    assert {status for status, _ in found.others} == {200}
    assert found.peak_bytes < 2**30
