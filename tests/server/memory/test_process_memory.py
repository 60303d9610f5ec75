"""The process's own memory, as /proc tells it; None where it does not."""

import mmap

import pytest

from server.memory.process_memory import resident_bytes, with_peak

MIB = 2**20


@pytest.fixture
def pretended(tmp_path):
    """A /proc without the file that resets the peak."""
    folder = tmp_path / "self"
    folder.mkdir()
    (folder / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    return tmp_path


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
