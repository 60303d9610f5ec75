"""Arguments of `openset label`."""

import argparse
from pathlib import Path

from openset.command_options import LIST_HELP, ListAction, add_detection_options, add_model_options
from openset.label.formats import FORMATS


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `label`."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help='pictures, videos, folders, patterns, or "-" for a list of them'
    )
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--labels", action=ListAction, metavar="A,B", help=f"what to find, {LIST_HELP}")
    query.add_argument("--labels-file", type=Path, metavar="FILE", help="what to find, one on each line")
    query.add_argument("--prompt", help='what to find, like "a dog. a bicycle."')
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write; a run goes on there"
    )
    parser.add_argument(
        "--format",
        action=ListAction,
        choices=tuple(FORMATS),
        metavar="A,B",
        help=f"of {', '.join(FORMATS)}, besides results.jsonl (default: coco)",
    )
    parser.add_argument("--draw", action="store_true", help="write the pictures with their boxes too")
    parser.add_argument(
        "--every", type=float, default=1.0, metavar="SECONDS", help="between frames of a video (default: 1)"
    )
    add_model_options(parser, parallel=8)
    add_detection_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print neither progress nor summary")
