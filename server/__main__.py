"""The `openset` command, the entry point for serving, exporting, training and evaluation.

Serving needs neither PyTorch nor the packages `models` and `export`: only the commands that use them import them.
"""

from server.stop_signals import STOP  # first, so that a signal during the imports finds its handler

# isort: split
import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from server.console import escape_what_cannot_be_encoded, flush_output, is_of_output

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
    "pull": ("make the bundle of an official model, by its name", "export.pull", "cpu"),
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
    """Run one command; returns its exit status: 2 for bad usage, 130 where Ctrl-C interrupted it.

    Without `argv` this is the whole process, which `openset serve` ends here.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    escape_what_cannot_be_encoded()
    if words[:1] != ["serve"]:
        return _run(words)
    with STOP.installed():
        status = _run(words)
    if argv is None:
        from server.registry.daemon_thread import end_process

        end_process(status)  # an ordinary end unloads the runtime, which aborts where a thread is still inside it
    return status


def _run(words: Sequence[str]) -> int:
    name = " ".join(["openset", *words[:1]])
    failure = None
    try:
        status = _run_command(words)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        if not is_of_output(error):
            raise
        flush_output()
        status, failure = 1, error
    failure = failure or flush_output()
    if isinstance(failure, BrokenPipeError):
        return 128 + signal.SIGPIPE  # its reader has seen enough
    if failure:
        print(f"{name}: the output cannot be written: {failure.strerror}", file=sys.stderr)
        return 1
    return status


def _run_command(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="openset", description="Open-set vision: detection, classification, similarity."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, _, _) in _COMMANDS.items():
        # Only the chosen command's module is imported: `openset serve` must not need PyTorch.
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if words[:1] == [name]:
            try:
                _module(name)(name, subparser)
            except ModuleNotFoundError as error:
                return _missing(name, error)
    args = parser.parse_args(words)
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
