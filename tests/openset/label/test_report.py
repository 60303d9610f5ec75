from openset.label.report import write_report
from openset.label.results_log import PictureResult

from .fakes import CAT, DOG, labelled, result


def test_report_counts_labels_and_names_unreadable_and_empty_pictures(tmp_path):
    broken = PictureResult(image="bro|ken.jpg", error="the image\nis damaged")
    job = labelled(tmp_path, result("a.jpg", DOG, DOG), result("b.jpg", CAT), result("c.jpg"), broken)
    text = write_report(job, tmp_path / "out", options={"labels": "dog"}, written=[job.log.file]).read_text()
    assert "3 pictures, 3 boxes; 1 pictures without a box, 1 unreadable." in text
    assert "| dog | 2 | 1 | 0.75 | 0.75 | 0.75 |" in text
    assert "| banana | 0 | 0 | | | |" in text
    assert "| bro\\|ken.jpg | the image is damaged |" in text
    assert "- c.jpg" in text


def test_long_lists_are_cut_and_say_so(tmp_path):
    job = labelled(tmp_path, *[result(f"{number}.jpg") for number in range(250)])
    text = write_report(job, tmp_path / "out", options={}, written=[]).read_text()
    assert "- and 50 more, in `results.jsonl`" in text
