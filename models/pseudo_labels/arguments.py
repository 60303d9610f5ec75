"""Arguments of `openset pseudo-label`."""

import argparse
from pathlib import Path

from models.pseudo_labels.grounding_filter import GroundingFilter
from openset.command_options import add_model_options


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pseudo-label`."""
    defaults = GroundingFilter()
    parser.add_argument("captions", type=Path, help="folder of images with .txt files, or a .tsv, .csv or .jsonl list")
    parser.add_argument("--pictures", type=Path, help="folder that a list's image paths start at (default: the list's)")
    parser.add_argument("--out", type=Path, required=True, metavar="JSONL", help="ODVG file to write")
    parser.add_argument(
        "--threshold", type=float, default=defaults.threshold, help="minimum score of a box (default: %(default)s)"
    )
    parser.add_argument(
        "--nms-iou",
        type=float,
        default=defaults.nms_iou,
        help="IoU above which the weaker of two boxes of a phrase is suppressed (default: %(default)s)",
    )
    parser.add_argument(
        "--most", type=int, default=defaults.max_boxes, help="drop a phrase with more boxes (default: %(default)s)"
    )
    parser.add_argument("--complete", action="store_true", help="drop a caption of which a phrase has no box")
    parser.add_argument(
        "--skip-faulty", action="store_true", help="leave out faulty entries and images, and count them"
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same arguments")
    add_model_options(parser, parallel=4)
