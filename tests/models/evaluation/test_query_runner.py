"""Answers in order, a few at once, and a log to resume from."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from models.data.faults import RecordFault
from models.data.images import PictureFile
from models.evaluation.backends import BackendError, RecordRefused
from models.evaluation.metrics import Query
from models.evaluation.query_runner import (
    AnswerLogError,
    LeftOut,
    answer_or_fault,
    exit_status,
    logged_answers,
    map_in_order,
)

HEADER = {"set": "a.json", "options": (1, None)}


def double(asked: list[int]):
    def ask(number: int) -> int:
        asked.append(number)
        return number * 2

    return ask


def run(file: Path, count: int, asked: list[int], *, resume: bool, header=HEADER, stop: int | None = None):
    answers = logged_answers(file, header, range(count), double(asked), parallel=1, resume=resume)
    return [next(answers) for _ in range(count if stop is None else stop)]


def test_a_resumed_run_asks_only_the_remaining_queries(tmp_path: Path):
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


def test_a_log_is_not_overwritten_without_resume(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    run(file, 3, [], resume=False)
    with pytest.raises(AnswerLogError, match=r"answers\.jsonl exists: continue with --resume"):
        run(file, 3, [], resume=False)


def test_a_log_of_another_run_is_refused(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    run(file, 3, [], resume=False)
    with pytest.raises(AnswerLogError, match="belongs to another run"):
        run(file, 3, [], resume=True, header={"set": "b.json"})


def test_a_log_with_more_answers_than_queries_is_refused(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    run(file, 3, [], resume=False)
    with pytest.raises(AnswerLogError, match="more answers than there are queries"):
        list(logged_answers(file, HEADER, range(2), double([]), parallel=1, resume=True))


def test_no_more_queries_are_drawn_than_are_pending():
    drawn: list[int] = []

    def queries() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    answers = map_in_order(lambda number: number, queries(), parallel=3)
    assert [next(answers) for _ in range(5)] == [(number, number) for number in range(5)]
    assert len(drawn) <= 5 + 3


def test_an_error_is_raised_in_the_place_of_its_answer():
    def ask(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        return number

    answers = map_in_order(ask, range(10), parallel=4)
    assert [next(answers), next(answers)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="the third"):
        next(answers)


def test_a_broken_image_is_named_or_skipped(tmp_path: Path):
    query = Query(PictureFile(tmp_path / "gone.png"), "set.json: 3", ())
    with pytest.raises(RecordFault, match=r"^set\.json: 3: .*gone\.png"):
        answer_or_fault(query, len, skip=False)
    left_out = LeftOut.of(answer_or_fault(query, len, skip=True))
    assert left_out is not None
    assert (left_out.kind, left_out.reason.startswith("set.json: 3: ")) == ("picture", True)
    assert LeftOut.of({"filename": "a.png"}) is None


@pytest.fixture
def whole(tmp_path: Path) -> Query:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return Query(PictureFile(tmp_path / "a.png"), "set.json: 4", ())


def test_a_record_that_the_model_refuses_is_faulty(whole: Query):
    def refuse(image: bytes) -> None:
        raise RecordRefused("the prompt is too long", kind="prompt too long")

    with pytest.raises(RecordFault, match=r"^set\.json: 4: the prompt is too long"):
        answer_or_fault(whole, refuse, skip=False)
    assert answer_or_fault(whole, refuse, skip=True) == {
        "kind": "prompt too long",
        "reason": "set.json: 4: the prompt is too long",
    }


def test_a_fault_of_the_model_ends_the_run_and_names_the_record(whole: Query):
    def fail(image: bytes) -> None:
        raise BackendError("the model run failed")

    with pytest.raises(BackendError, match=r"^set\.json: 4: the model run failed"):
        answer_or_fault(whole, fail, skip=True)


def test_a_query_of_a_faulty_record_is_not_asked(whole: Query):
    query = replace(whole, fault=RecordFault("set.json: 4: bbox is outside", kind="bbox"))
    assert answer_or_fault(query, pytest.fail, skip=True) == {"kind": "bbox", "reason": "set.json: 4: bbox is outside"}


@pytest.mark.parametrize("line", [b"{\n", b"nonsense\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_log_is_named(tmp_path: Path, line: bytes):
    file = tmp_path / "answers.jsonl"
    run(file, 2, [], resume=False)
    for damaged in (line, file.read_bytes() + line):
        file.write_bytes(damaged)
        with pytest.raises(AnswerLogError, match=r"answers\.jsonl is no .*: remove it"):
            list(logged_answers(file, HEADER, range(9), double([]), parallel=1, resume=True))


def test_a_failed_command_prints_one_line_and_exits_with_2(capsys: pytest.CaptureFixture[str]):
    def fail(args: argparse.Namespace) -> str:
        raise AnswerLogError("answers.jsonl exists")

    assert exit_status("evaluate", fail, argparse.Namespace()) == 2
    assert capsys.readouterr().err == "openset evaluate: answers.jsonl exists\n"
    assert exit_status("evaluate", lambda args: "done", argparse.Namespace()) == 0
    assert capsys.readouterr().out == "done\n"
