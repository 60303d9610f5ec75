"""What the commands that ask a model have alike: which one and how, and how they end."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from models.data.images import DataError
from models.evaluation.answer_log import JournalError
from models.evaluation.backends import Unanswered
from server.contract.manifest import BundleError
from server.settings import SettingsError


def add_asking_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model is asked, how it is reached, and how many questions at once."""
    parser.add_argument("--parallel", type=int, default=4, help="pictures asked about at once (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on where a run with the same arguments was cut off")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bundle", action="append", type=Path, metavar="PATH", help="bundle folder, instead of the bundled ones"
    )
    where.add_argument("--url", help="a running server instead, like http://localhost:8000")
    parser.add_argument("--api-key", help="key for that server")
    parser.add_argument("--model", help="name or family of the model; by default the first that can do the task")
    parser.add_argument("--allow-uncertified", action="store_true", help="use artefacts without a valid certificate")


def exit_status(command: str, work: Callable[[argparse.Namespace], str], args: argparse.Namespace) -> int:
    """Print what `work` tells; 2, with a sentence, for data or a model that cannot be used."""
    try:
        print(work(args))
    except (DataError, JournalError, Unanswered, BundleError, SettingsError, OSError) as error:
        print(f"openset {command}: {error}", file=sys.stderr)
        return 2
    return 0
