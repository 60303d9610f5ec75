"""Limits by affinity and cgroup, and memory as /proc reports it; None where it does not."""

import mmap
import os

import pytest

from server.memory.process_resources import available_cpus, cpu_quota, memory_limit, resident_bytes, with_peak

MIB = 2**20


@pytest.fixture
def pretended(tmp_path):
    """A /proc without the file that resets the peak."""
    folder = tmp_path / "self"
    folder.mkdir()
    (folder / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    return tmp_path


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


def test_no_cgroup_is_no_quota(tmp_path):
    assert cpu_quota(proc=tmp_path, cgroup=tmp_path) is None


def test_version_2_quota_is_read(machine):
    paths = machine({"proc/self/cgroup": "0::/pod/box\n", "cgroup/pod/box/cpu.max": "150000 100000\n"})
    assert cpu_quota(**paths) == 1.5


def test_tightest_quota_of_the_parents_counts(machine):
    paths = machine(
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "cgroup/pod/cpu.max": "50000 100000\n",
            "cgroup/pod/box/cpu.max": "400000 100000\n",
        }
    )
    assert cpu_quota(**paths) == 0.5
    assert available_cpus(**paths) == 1


def test_max_is_no_quota(machine):
    paths = machine({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"})
    assert cpu_quota(**paths) is None
    assert available_cpus(**paths) == len(os.sched_getaffinity(0))


def test_version_1_quota_is_read(machine):
    paths = machine(
        {
            "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/docker/box\n",
            "cgroup/cpu,cpuacct/docker/box/cpu.cfs_quota_us": "100000\n",
            "cgroup/cpu,cpuacct/docker/box/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cpu_quota(**paths) == 1


def test_version_1_quota_of_minus_one_is_none(machine):
    paths = machine(
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cpu_quota(**paths) is None


def test_resident_memory_is_read_in_bytes(pretended):
    assert resident_bytes(proc=pretended) == 1024 * 1024


def test_system_without_proc_tells_nothing(tmp_path):
    assert resident_bytes(proc=tmp_path) is None
    assert with_peak(lambda: "done", proc=tmp_path) == ("done", None)


def test_peak_that_cannot_be_reset_is_not_told(pretended):
    (pretended / "self" / "clear_refs").mkdir()  # cannot be written to
    assert with_peak(lambda: "done", proc=pretended) == ("done", None)


def test_peak_is_that_of_the_run_though_it_is_over():
    if with_peak(lambda: None)[1] is None:
        pytest.skip("this system does not let a process reset its peak")

    def run():
        memory = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.write(b"x" * (64 * MIB))
        memory.close()
        return "done"

    result, peak = with_peak(run)
    assert result == "done"
    assert 60 * MIB < peak < 160 * MIB  # the mapping, and the bytes written to it
    _, after = with_peak(lambda: None)
    assert after < 16 * MIB, "an earlier peak is forgotten"
