"""A job's folder at an address: what was saved is there for the next job, once."""

import fsspec
import pytest

from openset.label import output
from openset.label.output import open_output
from openset.label.results_log import LogError, ResultsLog

from .fakes import result

ADDRESS, RESULTS = "memory://labels/job", "/labels/job/results.jsonl"


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists("/labels"):
        filesystem.rm("/labels", recursive=True)


def write(*images, stopped=False, description=None):
    """A job that adds these results, saved after each; it may be stopped before its end."""
    with open_output(ADDRESS) as (folder, save), ResultsLog(folder, description or {}) as log:
        done = log.done()
        save()
        for image in images:
            log.append(result(image))
            save()
        if stopped:
            raise KeyboardInterrupt
    return done


def test_folder_of_this_machine_is_itself(tmp_path):
    with open_output(str(tmp_path)) as (folder, save):
        save()
        assert folder == tmp_path


def test_files_are_at_the_address_when_the_job_has_ended(memory):
    write("a.jpg", "b.jpg")
    assert memory.cat_file(RESULTS).count(b"\n") == 2
    assert not memory.exists("/labels/job/results.parts")


@pytest.mark.parametrize("save_s", [0.0, 1000.0])
def test_stopped_job_goes_on_from_what_was_saved(memory, monkeypatch, save_s):
    monkeypatch.setattr(output, "SAVE_S", save_s)
    for images in (["a.jpg", "b.jpg"], ["c.jpg"]):
        with pytest.raises(KeyboardInterrupt):
            write(*images, stopped=True)
    assert write("d.jpg") == {"a.jpg", "b.jpg", "c.jpg"}
    assert memory.cat_file(RESULTS).count(b"\n") == 4


def test_parts_that_the_whole_has_already_are_not_added_again(memory):
    with pytest.raises(KeyboardInterrupt):
        write("a.jpg", "b.jpg", stopped=True)
    (part,) = memory.find("/labels/job/results.parts")
    memory.pipe_file(RESULTS, memory.cat_file(part))  # ended before it had removed the part
    write("c.jpg")
    assert memory.cat_file(RESULTS).count(b"\n") == 3


def test_results_of_another_job_are_refused_by_their_address(memory):
    write("a.jpg", description={"labels": ["dog"]})
    with pytest.raises(LogError, match=f"^{ADDRESS} has results of another run, with other labels"):
        write("b.jpg", description={"labels": ["cat"]})


def test_unknown_protocol_is_refused():
    with pytest.raises(LogError, match="Protocol not known"), open_output("nothing://labels"):
        pass
