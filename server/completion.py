"""The `completion` command: a static script for a shell, so that a TAB starts no Python."""

import argparse
from pathlib import Path

import shtab


def run(args: argparse.Namespace) -> int:
    """Print the script, as `openset completion bash > ~/.local/share/bash-completion/completions/openset` keeps it."""
    from server.__main__ import COMMANDS, make_parser

    parser = make_parser(*COMMANDS)
    _complete_files(parser)
    print(shtab.complete(parser, shell=args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let arguments that name files be completed by them."""
    for action in parser._actions:  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _complete_files(each)
        elif action.type is Path or action.metavar in ("IMAGE", "SOURCE", "PATH"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
