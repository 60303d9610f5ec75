"""Arguments of a labelling job."""

import pytest

from server.__main__ import make_parser


def parse(*words):
    return make_parser("label").parse_args(["label", "pictures", "--out", "o", *words])


def test_lists_are_read_by_the_rule_of_all_commands():
    args = parse("--labels", "dog, red cat", "--format", "coco,yolo", "--format", "csv")
    assert (args.labels, args.format) == (["dog", "red cat"], ["coco", "yolo", "csv"])


def test_least_score_belongs_to_a_label():
    args = parse("--labels", "a=b,c", "--threshold", "a=b=0.5", "--threshold", "c = 0.25")
    assert args.thresholds == [("a=b", 0.5), ("c", 0.25)]


@pytest.mark.parametrize("value", ["dog", "0.5", "=0.5", "dog=", "dog=2", "dog=nan", "dog=-1"])
def test_least_score_of_no_label_is_refused(capsys, value):
    with pytest.raises(SystemExit):
        parse("--labels", "dog", "--threshold", value)
    assert "is no label with its least score, like dog=0.4" in capsys.readouterr().err
