"""Arguments of `openset train`."""

import argparse
from pathlib import Path

from openset.command_options import ListAction, positive

CONFIGS = Path(__file__).parent / "configs"


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    bundled = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
    parser.add_argument("recipe", help=f"a TOML file, or the name of a bundled recipe: {bundled}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: curve, last state, checkpoint")
    parser.add_argument(
        "--start",
        type=_absolute,
        help="checkpoint to start from (default: the recipe's, if it names one): of the same family in any published"
        " form, or where the recipe has a [model], one whose backbones are taken over",
    )
    parser.add_argument(
        "--words", type=_absolute, help="folder of a distillation, whose vocabulary and text encoder are taken"
    )
    parser.add_argument(
        "--backbone",
        type=_absolute,
        help="published weights of an EfficientNet-Lite, for the image tower of a fresh CLIP",
    )
    scenes = "of generated scenes (default: the recipe's, else the bundled"
    parser.add_argument("--sprites", type=_absolute, help=f"sprite pack {scenes} small one), zip or folder")
    parser.add_argument(
        "--styles",
        nargs="+",
        action=ListAction,
        metavar="A,B",
        help="art styles of the pack to train on (default: all)",
    )
    parser.add_argument("--names", type=_absolute, help=f"list of objects {scenes} one)")
    parser.add_argument("--photographs", type=_absolute, help="photo pack of generated scenes on photographs")
    parser.add_argument("--steps", type=positive, metavar="N", help="train this many steps instead of the recipe's")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: all but those that readers take)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last state in --out")


def _absolute(path: str) -> Path:
    return Path(path).absolute()
