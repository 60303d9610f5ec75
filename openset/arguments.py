"""Arguments of `detect`, `classify` and `similarity`."""

import argparse
from pathlib import Path
from typing import get_args

from openset.command_options import LIST_HELP, ListAction, add_detection_options, add_model_options
from openset.results import BoxFormat

# Formats that a drawing can be written in, by suffix.
DRAWN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `command`."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, patterns, or - for one on standard input"
    )
    {"detect": _detect, "classify": _classify, "similarity": _similarity}[command](parser)
    add_model_options(parser, parallel=8)
    parser.add_argument(
        "--json", action="store_true", help="print the answer of the HTTP endpoint; of several pictures a line each"
    )


def _detect(parser: argparse.ArgumentParser) -> None:
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--prompt", help='what to find, like "a dog. a bicycle."')
    query.add_argument("--labels", action=ListAction, metavar="A,B", help=f"what to find, {LIST_HELP}")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write the image with the boxes drawn on it, in the format of the suffix: {', '.join(DRAWN)}",
    )
    add_detection_options(parser)
    parser.add_argument("--box-format", choices=get_args(BoxFormat))


def _classify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", required=True, action=ListAction, metavar="A,B", help=f"the candidates, {LIST_HELP}"
    )
    parser.add_argument(
        "--template",
        dest="templates",
        action=ListAction,
        commas=False,
        metavar="TEXT",
        help='like "a photo of a {}."; several are averaged',
    )
    parser.add_argument("--multi-label", action="store_true", default=None, help="score each label on its own")
    parser.add_argument("--top-k", type=int, metavar="N", help="print only the best N")


def _similarity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        nargs="+",
        required=True,
        action=ListAction,
        commas=False,
        metavar="TEXT",
        help="several, repeated, or a JSON array; commas are part of a text",
    )
    parser.add_argument("--embeddings", action="store_true", default=None, help="with --json: the embeddings too")
