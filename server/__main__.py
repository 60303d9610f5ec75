"""The `openset` command: the one door to serving, exporting and training.

Serving needs neither PyTorch nor the packages `models` and `export`: only the commands that use them import them.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

# command -> (help, the module whose `add_arguments` and `run` it is, the extra that module needs)
_COMMANDS = {
    "serve": ("answer requests over HTTP", "server.app", None),
    "key": ("make API keys", "server.middleware.auth", None),
    "bundles": ("change what a running server serves", "server.registry.admin_cli", None),
    "detect": ("find what a prompt names in a picture", "server.cli", None),
    "classify": ("choose among labels for a picture", "server.cli", None),
    "similarity": ("compare pictures with texts", "server.cli", None),
    "export": ("make a bundle from a checkpoint", "export.cli", "export"),
    "pull": ("make the bundle of an official model, by its name", "export.pull", "export"),
    "verify": ("check a bundle's files and certificates again", "export.cli", "cpu"),
    "evaluate": ("measure a model on a data set", "models.evaluation.cli", "evaluate"),
    "pseudo-label": (
        "box the phrases of captions with a detector",
        "models.pseudo_labels.cli",
        "evaluate",
    ),
    "train": ("train a model from a configuration file", "models.training.cli", "train"),
}


class Register(Protocol):
    """What a command's module offers: it fills `parser` and sets its default `func(args) -> exit status`."""

    def __call__(self, command: str, parser: argparse.ArgumentParser) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, 2 for bad usage."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="openset", description="Open-set vision: detection, classification, similarity."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, _, _) in _COMMANDS.items():
        # Only the chosen command's module is imported: `openset serve` must not need PyTorch.
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if argv[:1] == [name]:
            try:
                _module(name)(name, subparser)
            except ModuleNotFoundError as error:
                return _missing(name, error)
    args = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.func
    try:
        return run(args)
    except ModuleNotFoundError as error:
        return _missing(args.command, error)


def _module(command: str) -> Register:
    register: Register = importlib.import_module(_COMMANDS[command][1]).add_arguments
    return register


def _missing(command: str, error: ModuleNotFoundError) -> int:
    extra = _COMMANDS[command][2] or "cpu"
    if error.name == "onnxruntime" and extra != "cpu":
        extra = f"cpu,{extra}"
    print(f"openset {command}: {error}; install it with: pip install 'openset[{extra}]'", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
