from collections.abc import Iterator

import pytest

from openset.ordered_map import map_in_order


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
