import json
import os
from functools import partial

import pytest

from openset.answerer import NoAnswers
from openset.label.job import is_current, label_all
from openset.label.results_log import PictureResult, ResultsLog
from openset.sources import MediaFile

from .fakes import FakeDetector


@pytest.fixture
def sources(tmp_path):
    return [MediaFile(tmp_path / f"{number}.jpg", f"{number}.jpg") for number in range(20)]


def label(sources, detector, folder, **options):
    with ResultsLog(folder / "out", {}) as log:
        options = {"parallel": 3, "frames": folder / "frames", "every_s": 1.0} | options
        return [result.image for result in label_all(sources, detector, log, **options)]


def test_each_picture_has_one_result_in_order(sources, tmp_path):
    assert label(sources, FakeDetector(), tmp_path) == [source.name for source in sources]


def test_unreadable_picture_is_a_result_and_ends_nothing(sources, tmp_path):
    assert len(label(sources, FakeDetector(broken={"3.jpg"}), tmp_path)) == 20
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines if "error" in line] == ["3.jpg"]
    assert label(sources, FakeDetector(), tmp_path) == ["3.jpg"]  # what failed is tried again


def test_second_run_asks_only_for_what_is_missing(sources, tmp_path):
    label(sources[:7], FakeDetector(), tmp_path)
    detector = FakeDetector()
    assert label(sources, detector, tmp_path) == [source.name for source in sources[7:]]
    assert len(detector.asked) == 13


def rerun(sources, detector, folder):
    current = partial(is_current, root=folder, frames=folder / "frames")
    with ResultsLog(folder / "out", {}, is_current=current) as log:
        list(label_all(sources, detector, log, parallel=3, frames=folder / "frames", every_s=1.0))
        return log.outdated, [result.image for result in log.read()]


@pytest.mark.parametrize("change", ["content", "time", "length"])
def test_second_run_asks_again_for_what_has_changed_and_forgets_what_is_gone(sources, tmp_path, change):
    for source in sources:
        source.path.write_bytes(b"picture")
    assert rerun(sources, FakeDetector(), tmp_path)[0] == 0
    time = sources[4].path.stat().st_mtime_ns
    later = time if change == "length" else time + 1000
    sources[4].path.write_bytes({"content": b"another", "time": b"picture", "length": b"a longer one"}[change])
    os.utime(sources[4].path, ns=(later, later))
    sources[9].path.unlink()
    detector = FakeDetector()
    outdated, images = rerun([each for each in sources if each is not sources[9]], detector, tmp_path)
    assert (outdated, detector.asked) == (2, ["4.jpg"])
    assert sorted(images) == sorted(each.name for each in sources if each is not sources[9])
    assert rerun(sources[:4], FakeDetector(), tmp_path) == (0, images)  # what is there and not asked for now stays


def test_frames_are_current_while_their_video_is(tmp_path):
    video, frame = tmp_path / "clip.mp4", tmp_path / "frames" / "clip.mp4" / "000000000.jpg"
    frame.parent.mkdir(parents=True)
    for file in (video, frame):
        file.write_bytes(b"bytes")
        os.utime(file, ns=(5, 5))
    found = PictureResult(image="clip.mp4/000000000.jpg", modified_ns=5, file_bytes=5)
    assert is_current(found, tmp_path, tmp_path / "frames")
    os.utime(video, ns=(10**12, 10**12))
    assert not is_current(found, tmp_path, tmp_path / "frames")
    video.unlink()
    assert not is_current(found, tmp_path, tmp_path / "frames")


def test_failing_detector_ends_the_run_and_keeps_what_was_found(sources, tmp_path):
    class Failing(FakeDetector):
        def label(self, picture):
            if picture.name == "9.jpg":
                raise NoAnswers("gone")
            return super().label(picture)

    with pytest.raises(NoAnswers, match="gone"):
        label(sources, Failing(), tmp_path, parallel=2)
    assert label(sources, FakeDetector(), tmp_path) == [source.name for source in sources[9:]]


def test_no_more_pictures_are_asked_ahead_than_run_in_parallel(sources, tmp_path):
    detector = FakeDetector()
    with ResultsLog(tmp_path / "out", {}) as log:
        results = label_all(sources, detector, log, parallel=4, frames=tmp_path, every_s=1.0)
        next(results)
        assert len(detector.asked) <= 4
        del results


def test_unreadable_video_is_a_result_with_its_reason(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    detector = FakeDetector()
    assert label([MediaFile(tmp_path / "clip.mp4", "clip.mp4")], detector, tmp_path) == ["clip.mp4"]
    assert detector.asked == []


def test_file_with_a_fault_is_a_result_and_nobody_is_asked(tmp_path):
    detector = FakeDetector()
    assert label([MediaFile(tmp_path / "locked", "locked", "cannot be read")], detector, tmp_path) == ["locked"]
    assert detector.asked == []
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["error"] == "cannot be read"
