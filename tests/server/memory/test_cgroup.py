"""The memory limit of the cgroup and its parents."""

import pytest

from server.memory.cgroup import memory_limit


def test_no_cgroup_is_no_limit(tmp_path):
    assert memory_limit(proc=tmp_path, cgroup=tmp_path) is None


@pytest.mark.parametrize("folder", ["pod", "pod/box"])
def test_version_2_limit_of_the_cgroup_or_its_parent_is_read(machine, folder):
    paths = machine({"proc/self/cgroup": "0::/pod/box\n", f"cgroup/{folder}/memory.max": "1048576\n"})
    assert memory_limit(**paths) == 1048576


def test_tightest_limit_counts(machine):
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "cgroup/pod/memory.max": "100\n",
        "cgroup/pod/box/memory.max": "200\n",
    }
    assert memory_limit(**machine(files)) == 100


def test_max_is_no_limit(machine):
    assert memory_limit(**machine({"proc/self/cgroup": "0::/\n", "cgroup/memory.max": "max\n"})) is None


@pytest.mark.parametrize(("written", "limit"), [("1048576\n", 1048576), ("9223372036854771712\n", None)])
def test_version_1_limit_is_read(machine, written, limit):
    files = {"proc/self/cgroup": "4:memory:/docker/box\n", "cgroup/memory/docker/box/memory.limit_in_bytes": written}
    assert memory_limit(**machine(files)) == limit
