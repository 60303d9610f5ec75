from collections.abc import Iterator
from pathlib import Path

import pytest

from models.evaluation.answer_log import JournalError, answered
from models.evaluation.bounded_map import in_order

ABOUT = {"set": "a.json", "options": (1, None)}


def double(asked: list[int]):
    def ask(number: int) -> int:
        asked.append(number)
        return number * 2

    return ask


def run(file: Path, count: int, asked: list[int], *, resume: bool, about=ABOUT, stop: int | None = None):
    answers = answered(file, about, range(count), double(asked), parallel=1, resume=resume)
    return [next(answers) for _ in range(count if stop is None else stop)]


def test_a_run_that_was_cut_off_asks_only_what_is_left(tmp_path: Path):
    file, asked = tmp_path / "out" / "answers.jsonl", []
    run(file, 6, asked, resume=False, stop=3)
    with file.open("a") as stream:
        stream.write('{"half a l')
    before = len(asked)
    assert run(file, 6, asked, resume=True) == [(number, number * 2) for number in range(6)]
    assert asked[before:] == [3, 4, 5]
    assert file.read_text().count("\n") == 7


def test_a_finished_run_is_read_without_asking(tmp_path: Path):
    file, asked = tmp_path / "answers.jsonl", []
    run(file, 3, asked, resume=True)
    del asked[:]
    assert run(file, 3, asked, resume=True) == [(0, 0), (1, 2), (2, 4)]
    assert asked == []


def test_answers_are_not_overwritten_unasked(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    run(file, 3, [], resume=False)
    with pytest.raises(JournalError, match=r"answers\.jsonl is there already: go on with --resume"):
        run(file, 3, [], resume=False)


def test_answers_of_another_run_are_refused(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    run(file, 3, [], resume=False)
    with pytest.raises(JournalError, match="is of another run"):
        run(file, 3, [], resume=True, about={"set": "b.json"})


def test_a_set_that_has_shrunk_is_refused(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    run(file, 3, [], resume=False)
    with pytest.raises(JournalError, match="more answers than there are questions"):
        list(answered(file, ABOUT, range(2), double([]), parallel=1, resume=True))


def test_no_more_questions_are_drawn_than_are_under_way():
    drawn: list[int] = []

    def questions() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    answers = in_order(lambda number: number, questions(), parallel=3)
    assert [next(answers) for _ in range(5)] == [(number, number) for number in range(5)]
    assert len(drawn) <= 5 + 3


def test_an_error_comes_where_its_answer_would():
    def ask(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        return number

    answers = in_order(ask, range(10), parallel=4)
    assert [next(answers), next(answers)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="the third"):
        next(answers)
