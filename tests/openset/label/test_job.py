import json

import pytest

from openset.answerer import NoAnswers
from openset.label.job import label_all
from openset.label.results_log import ResultsLog
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
