"""Arguments of pseudo-labelling."""

from models.pseudo_labels.grounding_filter import GroundingFilter
from server.__main__ import make_parser


def test_criteria_are_those_of_the_filter_unless_told_otherwise():
    args = make_parser("pseudo-label").parse_args(["pseudo-label", "captions", "--out", "o.jsonl"])
    assert GroundingFilter(args.threshold, args.nms_iou, args.most, args.complete) == GroundingFilter()
