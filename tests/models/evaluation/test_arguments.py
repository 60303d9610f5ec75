"""Arguments of an evaluation."""

import pytest

from models.evaluation.arguments import METRICS
from server.__main__ import make_parser


def parse(*words):
    return make_parser("evaluate").parse_args(["evaluate", "set.json", "--out", "o", *words])


def test_measures_are_a_list_as_everywhere():
    assert parse("--measures", "detection,absent").measures == ["detection", "absent"]
    assert parse("--measures", "detection", "absent").measures == ["detection", "absent"]
    with pytest.raises(SystemExit):
        parse("--measures", "recall")


def test_all_is_measured_unless_told_otherwise():
    assert parse().measures is None
    assert len(set(METRICS)) == 6
