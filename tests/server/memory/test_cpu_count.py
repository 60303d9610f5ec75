"""The number of processors comes from affinity and quota, not from the host."""

import os

from server.memory.cpu_count import available_processors, cgroup_quota


def test_no_cgroup_is_no_quota(tmp_path):
    assert cgroup_quota(proc=tmp_path, cgroup=tmp_path) is None


def test_version_2_quota_is_read(machine):
    paths = machine({"proc/self/cgroup": "0::/pod/box\n", "cgroup/pod/box/cpu.max": "150000 100000\n"})
    assert cgroup_quota(**paths) == 1.5


def test_tightest_of_the_parents_counts(machine):
    paths = machine(
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "cgroup/pod/cpu.max": "50000 100000\n",
            "cgroup/pod/box/cpu.max": "400000 100000\n",
        }
    )
    assert cgroup_quota(**paths) == 0.5
    assert available_processors(**paths) == 1


def test_max_is_no_quota(machine):
    paths = machine({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"})
    assert cgroup_quota(**paths) is None
    assert available_processors(**paths) == len(os.sched_getaffinity(0))


def test_version_1_quota_is_read(machine):
    paths = machine(
        {
            "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/docker/box\n",
            "cgroup/cpu,cpuacct/docker/box/cpu.cfs_quota_us": "100000\n",
            "cgroup/cpu,cpuacct/docker/box/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cgroup_quota(**paths) == 1


def test_version_1_quota_of_minus_one_is_none(machine):
    paths = machine(
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cgroup_quota(**paths) is None
