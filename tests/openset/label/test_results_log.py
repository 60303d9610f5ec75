import multiprocessing

import pytest

from openset.label.results_log import LogError, PictureResult, ResultsLog

from .fakes import DOG, result

RUN = {"model": "fake", "labels": ["dog"]}


def test_results_are_read_back_in_order(tmp_path):
    written = [result("a.jpg", DOG), PictureResult(image="b.jpg", error="damaged")]
    with ResultsLog(tmp_path, RUN) as log:
        for each in written:
            log.append(each)
        assert list(log.read()) == written
        assert log.done() == {"a.jpg", "b.jpg"}


def test_line_cut_short_by_a_kill_is_dropped(tmp_path):
    with ResultsLog(tmp_path, RUN) as log:
        log.append(result("a.jpg"))
    with log.file.open("ab") as file:
        file.write(b'{"image": "b.j')
    with ResultsLog(tmp_path, RUN) as log:
        log.append(result("c.jpg"))
        assert [each.image for each in log.read()] == ["a.jpg", "c.jpg"]


def test_failed_picture_is_asked_for_again_by_the_next_run(tmp_path):
    with ResultsLog(tmp_path, RUN) as log:
        log.append(PictureResult(image="a.jpg", error="damaged"))
        log.append(result("b.jpg", DOG))
        assert log.failures == 1
    with ResultsLog(tmp_path, RUN) as log:
        assert (log.done(), log.failures) == ({"b.jpg"}, 0)
        assert list(log.read()) == [result("b.jpg", DOG)]


def test_damaged_line_is_named_and_nothing_is_lost(tmp_path):
    ResultsLog(tmp_path, RUN).close()
    content = result("a.jpg").model_dump_json() + "\nno JSON\n"
    (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(LogError, match=r"results\.jsonl, line 2 is damaged"):
        ResultsLog(tmp_path, RUN)
    assert (tmp_path / "results.jsonl").read_text() == content


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_description_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(LogError, match=r"run\.json is damaged"):
        ResultsLog(tmp_path, RUN)


def test_folder_of_another_run_is_refused_and_names_what_differs(tmp_path):
    with ResultsLog(tmp_path, RUN) as log:
        log.append(PictureResult(image="a.jpg"))
    with pytest.raises(LogError, match="other labels: give another --out"):
        ResultsLog(tmp_path, RUN | {"labels": ["cat"]})


def test_folder_of_a_run_without_results_is_taken_by_another(tmp_path):
    with ResultsLog(tmp_path, {"shorter": 20_000}):
        pass  # refused before the first picture
    with ResultsLog(tmp_path, {"shorter": 200}) as log:
        log.append(PictureResult(image="a.jpg"))
    with pytest.raises(LogError, match="with other shorter"):
        ResultsLog(tmp_path, {"shorter": 20_000})


def test_results_without_a_description_are_not_written_over(tmp_path):
    (tmp_path / "results.jsonl").write_text("mine")
    with pytest.raises(LogError, match="without run"):
        ResultsLog(tmp_path, RUN)
    assert (tmp_path / "results.jsonl").read_text() == "mine"


def _opens(folder, answers):
    try:
        ResultsLog(folder, RUN).close()
        answers.put("opened")
    except LogError as error:
        answers.put(str(error))


def test_two_processes_cannot_write_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with ResultsLog(tmp_path, RUN):
        other = context.Process(target=_opens, args=(tmp_path, answers))
        other.start()
        assert "another process" in answers.get(timeout=60)
        other.join()
