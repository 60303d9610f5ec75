"""The `openset` command, the entry point for serving, exporting, training and evaluation.

Serving needs neither PyTorch nor the packages `models` and `export`: only the commands that use them import them.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

# command -> (help, module with its `add_arguments` and `run`, extra that the module needs)
_COMMANDS = {
    "serve": ("answer requests over HTTP", "server.app", None),
    "key": ("make API keys", "server.middleware.auth", None),
    "bundles": ("change the bundles of a running server", "server.registry.admin_cli", None),
    "detect": ("detect objects by name in an image", "server.cli", None),
    "classify": ("classify an image among labels", "server.cli", None),
    "similarity": ("compare images with texts", "server.cli", None),
    "label": ("label pictures, folders and videos with boxes", "openset.label.cli", None),
    "export": ("make a bundle from a checkpoint", "export.cli", "export"),
    "pull": ("make the bundle of an official model, by its name", "export.pull", "export"),
    "verify": ("check a bundle's files and certificates", "export.cli", "cpu"),
    "evaluate": ("measure a model on a data set", "models.evaluation.cli", "evaluate"),
    "pseudo-label": (
        "label captioned images with a detector's boxes",
        "models.pseudo_labels.cli",
        "evaluate",
    ),
    "train": ("train a model from a configuration file", "models.training.cli", "train"),
}


class Register(Protocol):
    """`add_arguments` of a command's module: fills `parser` and sets its default `func(args) -> exit status`."""

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
