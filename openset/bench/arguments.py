"""Arguments of `openset bench`."""

import argparse
import re
from pathlib import Path

from openset.command_options import API_KEY, LIST_HELP, ListAction, positive

TASKS = ("detect", "classify", "similarity")


def add_arguments(_: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`."""
    parser.add_argument("url", metavar="URL", help="the server, or the address before many, like http://localhost:8000")
    parser.add_argument(
        "--labels", required=True, action=ListAction, metavar="A,B", help=f"each request asks about some, {LIST_HELP}"
    )
    parser.add_argument(
        "--rate",
        required=True,
        action=_RateAction,
        metavar="A,B",
        help="requests a second that arrive; several: in turn",
    )
    parser.add_argument("--task", choices=TASKS, default="detect", help="what is asked (default: %(default)s)")
    parser.add_argument(
        "--pictures", nargs="+", metavar="SOURCE", help="pictures, folders or patterns, instead of those of the package"
    )
    parser.add_argument("--model", help="name or family of the model; by default the first that can do this")
    parser.add_argument("--api-key", metavar="KEY", help=f"API key of the server [{API_KEY}]")
    parser.add_argument(
        "--seconds", type=_number, default=30.0, metavar="N", help="that requests arrive, at each rate (default: 30)"
    )
    parser.add_argument(
        "--objective", type=_duration, default=1.0, metavar="TIME", help="for an answer, as 500ms or 2s (default: 1s)"
    )
    parser.add_argument(
        "--share", type=_share, default=0.95, metavar="0..1", help="of requests that must meet it (default: 0.95)"
    )
    parser.add_argument("--replicas", type=positive, default=1, metavar="N", help="servers behind the URL (default: 1)")
    parser.add_argument("--wanted", type=_number, metavar="RATE", help="requests a second to plan replicas for")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of arrivals, pictures and labels (default: 0)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw latencies over the rate there, as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")


class _RateAction(argparse.Action):
    """Collects numbers from `5,10` and from the option repeated."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        given = list(getattr(namespace, self.dest) or ())
        try:
            given += [_number(part.strip()) for part in str(values).split(",")]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, given)


def _number(text: str) -> float:
    if not re.fullmatch(r"\d{0,7}\.?\d{1,6}", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return float(text)


def _share(text: str) -> float:
    if _number(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give a number above 0, at most 1")
    return float(text)


def _duration(text: str) -> float:
    found = re.fullmatch(r"(.+?)(ms|s)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 500ms or 2s")
    return _number(found[1]) / (1000 if found[2] == "ms" else 1)
