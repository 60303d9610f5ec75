"""Arguments of `export`, `pull`, `verify` and `models`."""

import argparse
from pathlib import Path
from typing import get_args

from openset.command_options import positive
from server.contract.manifest import LOWERINGS, Precision


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `command`."""
    {"export": _export, "pull": _pull, "verify": _verify, "models": _models}[command](parser)
    if command != "models":
        parser.add_argument("--quiet", action="store_true", help="print the result only")


def _models(parser: argparse.ArgumentParser) -> None:
    _add_cache(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON array, with the folder of each bundle")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="PATH",
        help="folder of checkpoints and bundles (default: OPENSET_CACHE_DIR, else openset in your cache folder)",
    )


def _pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="models to pull, or repositories as org/name[@revision]; without any, all names are listed",
    )
    _add_cache(parser)
    parser.add_argument(
        "--full",
        action="store_true",
        help="export the checkpoint, with a certificate of its own weights, rather than fill in the template: needs"
        " the extra export, and minutes",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        help="int8: also write graphs that compute products in int8, as far as the answers stay, and serve those: needs"
        " the extra int8, and minutes; fp32: take them out again (default: leave it)",
    )


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="file or folder of the weights; without it, --precision and --runtime add to the bundle in --out",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; an existing bundle is replaced")
    parser.add_argument(
        "--name", help="name of the model in requests (default: the folder's); without --checkpoint, a new one"
    )
    parser.add_argument("--bundle-version", help="version of the model in responses (default: 1)")
    parser.add_argument(
        "--shorter",
        type=positive,
        metavar="PIXELS",
        help="shorter side that pictures are resized to (default: the checkpoint's); smaller is faster, and finds fewer"
        " small things",
    )
    parser.add_argument(
        "--longer",
        type=positive,
        metavar="PIXELS",
        help="most pixels of the longer side (default: the checkpoint's, in proportion to --shorter)",
    )
    parser.add_argument("--opset", type=int, help="ONNX opset, 16 to 19 (default: 19)")
    parser.add_argument(
        "--weights",
        choices=("fp32", "fp16", "int8"),
        help="round the weights, for half the file or a quarter; computation stays fp32 (default: fp32)",
    )
    parser.add_argument(
        "--lowering",
        choices=LOWERINGS,
        help="bilinear sampling as DeformConv, fastest on CPUs, or as GridSample for ONNX Runtime before 1.25, or"
        " as gathers for runtimes whose GridSample is wrong (default: deform_conv)",
    )
    _add_engine_arguments(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="certify a pulled bundle with its own weights, against PyTorch: file or folder it was made of",
    )


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime",
        choices=("onnxruntime", "tensorrt", "tensorrt-rtx"),
        default="onnxruntime",
        help="also build engines, with TensorRT on the GPU that will run them, or with TensorRT-RTX, without a GPU"
        " (default: onnxruntime, graphs only)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="also write graphs in a lower precision and build engines from those; mixed: products in fp16, the rest in"
        " fp32; int8: products in int8, which CPUs then serve, where the answers stay: needs the extra int8, and"
        " minutes; fp32: take int8 out again (default: fp32)",
    )
    parser.add_argument(
        "--compute-capability",
        action="append",
        metavar="X.Y",
        help="GPUs that TensorRT-RTX builds for, repeatable (default: 8.0, 8.6, 8.9 and 12.0)",
    )
    parser.add_argument("--timing-cache", type=Path, help="file where TensorRT keeps its measurements for later builds")
    parser.add_argument(
        "--profiles",
        choices=("one", "buckets"),
        help="one optimization profile, or one for each bucket (default: one for TensorRT-RTX, else buckets)",
    )
