"""The `openset` command, the entry point for serving, labelling, exporting, training and evaluation.

Arguments are declared in modules that need nothing which an extra brings, so that `--help` and completion always work;
the module that runs a command is imported once its arguments are read. Serving needs neither PyTorch nor `models`.
argparse rather than typer or cyclopts: those read a command's options from its function, so that they would import what
runs all commands, and the flags of `serve`, which come from the settings, would have to be built beside them.
"""

from server.stop_signals import STOP  # first, so that a signal during the imports finds its handler

# isort: split
import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from server.console import escape_what_cannot_be_encoded, flush_output, is_of_output
from server.installation import install_command, version_line


class Command(NamedTuple):
    """A command: its help, the module of its `add_arguments(command, parser)`, its `module:run`, and its extras."""

    summary: str
    arguments: str
    run: str
    extras: tuple[str, ...] = ("cpu",)


COMMANDS = {
    "serve": Command("answer requests over HTTP", "server.arguments", "server.app:run"),
    "cluster": Command(
        "serve with many replicas on a Ray cluster",
        "server.cluster.arguments",
        "server.cluster.cli:run",
        ("cpu", "cluster"),
    ),
    "key": Command("make API keys", "server.arguments", "server.middleware.auth:run"),
    "bundles": Command("change the bundles of a running server", "server.arguments", "server.registry.admin_cli:run"),
    "models": Command(
        "list the models that there are, and those that can be had", "export.arguments", "export.model_list:run"
    ),
    "detect": Command("detect objects by name in pictures", "openset.arguments", "openset.cli:run"),
    "classify": Command("classify pictures among labels", "openset.arguments", "openset.cli:run"),
    "similarity": Command("compare pictures with texts", "openset.arguments", "openset.cli:run"),
    "label": Command(
        "label pictures, folders and videos with boxes", "openset.label.arguments", "openset.label.cli:run"
    ),
    "bench": Command(
        "measure the rate of requests that a server answers in time", "openset.bench.arguments", "openset.bench.cli:run"
    ),
    "export": Command(
        "make a bundle from a checkpoint", "export.arguments", "export.cli:run_export", ("cpu", "export")
    ),
    "pull": Command("make the bundle of an official model, by its name", "export.arguments", "export.pull:run"),
    "verify": Command("check a bundle's files and certificates", "export.arguments", "export.cli:run_verify"),
    "evaluate": Command(
        "measure a model on a data set",
        "models.evaluation.arguments",
        "models.evaluation.cli:run",
        ("cpu", "evaluate"),
    ),
    "pseudo-label": Command(
        "label captioned images with a detector's boxes",
        "models.pseudo_labels.arguments",
        "models.pseudo_labels.cli:run",
        ("cpu", "evaluate"),
    ),
    "train": Command(
        "train a model from a configuration file", "models.training.arguments", "models.training.cli:run", ("train",)
    ),
    "completion": Command("print the shell's completion script", "server.arguments", "server.completion:run"),
}
# Modules that only some uses of a command need, and the extra that brings each.
_EXTRA_OF = {"onnx": ("cpu", "int8"), "pyarrow": ("label",), "av": ("video",), "pillow_heif": ("heic",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    0: done. 1: done, with something that failed, as a picture that cannot be read. 2: bad usage, or nothing could be
    done. 128 and the signal's number: interrupted, or the reader of the output has gone. Results are printed to stdout,
    all else to stderr. Without `argv` this is the whole process, which `openset serve` ends here.
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


def make_parser(*commands: str) -> argparse.ArgumentParser:
    """The parser of the whole command line, with the arguments of these commands."""
    parser = argparse.ArgumentParser(
        prog="openset", description="Open-set vision: detection, classification, similarity."
    )
    parser.add_argument("--version", action="version", version=version_line())
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = f"{command.summary[0].upper()}{command.summary[1:]}."
        subparser = subparsers.add_parser(name, help=command.summary, description=summary)
        subparser.set_defaults(refuse=subparser.error)
        if name in commands:
            importlib.import_module(command.arguments).add_arguments(name, subparser)
    return parser


def _run(words: Sequence[str]) -> int:
    name = " ".join(["openset", *words[:1]])
    failure = None
    try:
        status = _run_command(words)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except MemoryError:
        print(f"{name}: this takes more memory than there is", file=sys.stderr)
        return 2
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
    parser = make_parser(*words[:1])
    args, rest = parser.parse_known_args(words)
    if rest:
        args.refuse(f"unrecognized arguments: {' '.join(rest)}{_list_hint(args, rest)}")
    command = COMMANDS[args.command]
    module, _, function = command.run.partition(":")
    try:
        status: int = getattr(importlib.import_module(module), function)(args)
    except ModuleNotFoundError as error:
        hint = install_command(_EXTRA_OF.get((error.name or "").partition(".")[0], command.extras))
        print(f"openset {args.command}: {error}; install it with: {hint}", file=sys.stderr)
        return 2
    return status


def _list_hint(args: argparse.Namespace, rest: Sequence[str]) -> str:
    """The way to write a list, where words follow the one that an option took."""
    lists: dict[str, Any] = {name: value for name, value in vars(args).items() if isinstance(value, list)}
    name = next((name for name in ("labels", "format") if lists.get(name)), None)
    if name is None or rest[0].startswith("-"):
        return ""
    meant = ",".join([*lists[name], *(word for word in rest if not word.startswith("-"))])
    return f"; for several, write --{name} {meant!r}"


if __name__ == "__main__":
    sys.exit(main())
