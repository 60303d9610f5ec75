"""Arguments of `openset cluster`."""

import argparse
import re

from server.settings import add_flags

DASHBOARD = "http://127.0.0.1:8265"


def add_arguments(_: str, parser: argparse.ArgumentParser) -> None:
    """Add the actions `up`, `config` and `env`, and the flags of `serve` to the first two."""
    replicas = argparse.ArgumentParser(add_help=False)
    replicas.add_argument(
        "--replicas", type=_range, default=(1, 1), metavar="N", help="number, or as load needs them MIN-MAX [1]"
    )
    replicas.add_argument("--cpus", type=_positive, default=1.0, metavar="NUMBER", help="CPUs of each replica [1]")
    replicas.add_argument(
        "--gpus", type=_share, default=0.0, metavar="NUMBER", help="GPUs of each, or a share as 0.5 [0]"
    )
    replicas.add_argument(
        "--memory", type=_bytes, default=0, metavar="SIZE", help="memory of each, as 4GiB; Ray places by it [none]"
    )
    replicas.add_argument(
        "--route-prefix", type=_prefix, default="/", metavar="PATH", help="path before all endpoints [/]"
    )
    replicas.add_argument(
        "--surge",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="update by new replicas before old ones stop, for which there must be room; --no-surge: after [--surge]",
    )
    add_flags(replicas)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser(
        "up", parents=[replicas], help="deploy on a Ray cluster, or start one on this machine and deploy there"
    )
    where = up.add_mutually_exclusive_group()
    where.add_argument("--address", metavar="URL", help=f"the cluster's dashboard, as {DASHBOARD} [a new cluster]")
    where.add_argument(
        "--block", action="store_true", help="stay, as a container's process must, and at its end end Ray here, too"
    )
    actions.add_parser(
        "config", parents=[replicas], help="print the file for `serve deploy` and KubeRay's serveConfigV2"
    )
    actions.add_parser("env", help="print the variables that `ray start` needs on each node, for eval")


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 on nor two of them as 1-4")
    return least, most


def _positive(text: str) -> float:
    if not re.fullmatch(r"\d*\.?\d+", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return float(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"\d*\.?\d+", text) or (float(text) > 1 and float(text) % 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of GPUs nor a share of one, as 0.5")
    return float(text)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)(?:([KMGT])iB)?", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give bytes, or as 512MiB or 4GiB")
    return int(found[1]) << (10 * " KMGT".index(found[2] or " "))


def _prefix(text: str) -> str:
    if not re.fullmatch(r"(/[\w.~-]+)+|/", text) or text.startswith("/-"):
        raise argparse.ArgumentTypeError(f"{text!r} is no path like /vision")
    return text
