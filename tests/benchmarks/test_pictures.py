"""A short run of the attack by slow pictures; its bound on /livez is for a machine that does nothing else."""

import asyncio

from tests.benchmarks import pictures
from tests.benchmarks.live_server import serving


def test_slow_pictures_keep_nobody_waiting_and_memory_within_bounds(tmp_path):
    with serving(tmp_path, *pictures.FLAGS) as server:
        seen = asyncio.run(pictures.attack(server, seconds=8))
    assert set(seen.other_statuses) == {200}
    assert max(seen.other) < pictures.OTHERS_S
    assert 0 < seen.memory_bytes < pictures.MEMORY_BYTES
    assert seen.memory_after_bytes < seen.memory_bytes
    assert set(seen.attack_statuses) <= {200, 413, 422, 504}
    assert max(seen.live) < 10 * pictures.LIVE_S
