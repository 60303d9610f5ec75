"""Arguments of `openset bench`."""

import pytest

from server.__main__ import make_parser


def parse(*words):
    return make_parser("bench").parse_args(["bench", "http://localhost:8000", "--labels", "dog,cat", *words])


def test_rates_are_a_list():
    assert parse("--rate", "5,10", "--rate", "2.5").rate == [5, 10, 2.5]


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("2s", 2.0), ("1.5s", 1.5)])
def test_objective_has_a_unit(text, seconds):
    assert parse("--rate", "1", "--objective", text).objective == seconds


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--rate", value) for value in ("0", "-1", "nan", "5,,6", "fast")),
        *(("--objective", value) for value in ("500", "0ms", "soon", "-1s")),
        *(("--share", value) for value in ("0", "1.5", "95%")),
        *(("--seconds", value) for value in ("0", "inf")),
        ("--replicas", "0"),
        ("--task", "embed"),
    ],
)
def test_value_that_is_none_is_refused(flag, value, capsys):
    with pytest.raises(SystemExit):
        parse("--rate", "1", f"{flag}={value}")
    assert f"argument {flag}" in capsys.readouterr().err
