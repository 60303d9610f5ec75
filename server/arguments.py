"""Arguments of the server's own commands; like those of all commands, without any package that an extra brings."""

import argparse
from pathlib import Path

from server.settings import add_flags


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`, `key`, `bundles` or `completion`."""
    {"serve": add_flags, "key": _key, "bundles": _bundles, "completion": _completion}[command](parser)


def _key(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="print a new key and its line for api_keys_file")
    new.add_argument("name", nargs="?", metavar="NAME", help="name of the client, which appears in logs")
    new.add_argument("--admin", action="store_true", help="the key may also change what is served (`openset bundles`)")


def _bundles(parser: argparse.ArgumentParser) -> None:
    reach = argparse.ArgumentParser(add_help=False)
    reach.add_argument("--url", default="http://127.0.0.1:8000", help="the server's address [%(default)s]")
    reach.add_argument(
        "--key-file", type=Path, metavar="PATH", help="file with an admin key, instead of OPENSET_API_KEY"
    )
    reach.add_argument("--json", action="store_true", help="print the answer of the HTTP endpoint")
    parser.epilog = "Options come after the action: openset bundles list --url http://localhost:8000"
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser(
        "list", parents=[reach], help="bundles being served; the first that can do a task is its default"
    )
    add = actions.add_parser("add", parents=[reach], help="serve one more bundle, behind the others")
    replace = actions.add_parser("replace", parents=[reach], help="serve another bundle in place of one")
    remove = actions.add_parser("remove", parents=[reach], help="stop serving a bundle")
    for action in (replace, remove):
        action.add_argument("name", metavar="NAME", help="of the bundle being served")
    for action in (add, replace):
        action.add_argument("path", metavar="PATH", help="folder on the server, within its bundle_roots")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="shell to print the completion script of")
