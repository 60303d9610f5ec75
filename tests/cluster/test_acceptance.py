"""The promises of `openset cluster`, on a cluster that is started for them."""

import shutil
import subprocess
import sys

import pytest

from tests.benchmarks.live_server import ROOT

pytest.importorskip("ray", reason="needs the extra `cluster`")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        not shutil.which("unshare") or not shutil.which("ip"), reason="needs unshare and ip (util-linux, iproute2)"
    ),
]


@pytest.mark.parametrize("checks", [["same_answers", "metrics", "overload"], ["kills"], ["prefix"]], ids="-".join)
def test_promises_are_kept(checks):
    """Those about seconds are left to `python -m tests.cluster.acceptance`, on a machine that does nothing else."""
    command = [sys.executable, "-m", "tests.cluster.acceptance", "--only", *checks]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all kept" in done.stdout
