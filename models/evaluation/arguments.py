"""Arguments of `openset evaluate`."""

import argparse
from pathlib import Path

from openset.command_options import ListAction, add_model_options

FORMATS = ("coco", "odvg", "yolo", "captions", "classes", "generated")
METRICS = ("classification", "retrieval", "detection", "absent", "grounding", "untrue")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    parser.add_argument(
        "set",
        type=Path,
        help="COCO .json, YOLO data.yaml, ODVG .jsonl, captions (.tsv, .csv, or a folder with .txt files), a folder"
        " with a folder of images for each class, or a folder written by models.synthetic.evaluation_set",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report and the answer logs")
    parser.add_argument("--format", choices=FORMATS, help="format of the set (default: by its suffix or contents)")
    parser.add_argument("--pictures", type=Path, help="folder that the set's image paths start at (default: the set's)")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="of a YOLO set (default: %(default)s)"
    )
    parser.add_argument("--label-map", type=Path, help='JSON of {"0": "person", ...}, for ODVG and class folders')
    parser.add_argument(
        "--measures",
        nargs="+",
        action=ListAction,
        choices=METRICS,
        metavar="A,B",
        help=f"only these, of {', '.join(METRICS)} (default: all the set allows)",
    )
    parser.add_argument(
        "--template", action=ListAction, commas=False, help='like "a photo of a {}."; several are averaged'
    )
    parser.add_argument(
        "--max-detections", type=int, default=300, help="boxes an image for average precision (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="only the first images of the set")
    parser.add_argument("--skip-faulty", action="store_true", help="leave out faulty records, and count them")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same arguments")
    add_model_options(parser, parallel=4)
    parser.add_argument("--classifier", metavar="NAME", help="model for classification and retrieval, over --model")
    parser.add_argument("--detector", metavar="NAME", help="model for detection, over --model")
