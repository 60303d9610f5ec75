"""The `bundles` command: lists, adds, replaces and removes the bundles of a running server."""

import argparse
import ipaddress
import json
import os
import sys
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from pydantic import BaseModel, ValidationError

from server.contract.regular_files import read_regular
from server.schemas import ADMIN_BUNDLES, BundleBody, BundleChange, BundlesAnswer, Problem

Answer = TypeVar("Answer", bound=BaseModel)
KEY = "OPENSET_API_KEY"
_MAX_KEY_BYTES, _MAX_ANSWER_BYTES = 2**16, 2**24


class CommandError(Exception):
    """The command failed; the message is one sentence."""


def run(args: argparse.Namespace) -> int:
    """`openset bundles`; 2 with one sentence on stderr where nothing was changed."""
    try:
        print(_run_action(args))
    except CommandError as error:
        print(f"openset bundles: {error}", file=sys.stderr)
        return 2
    return 0


def _run_action(args: argparse.Namespace) -> str:
    if args.action == "list":
        answer = _send(args, BundlesAnswer, "GET")
        return answer.model_dump_json(indent=1) if args.json else _table(answer.bundles)
    method = {"add": "POST", "replace": "PUT", "remove": "DELETE"}[args.action]
    name = "" if args.action == "add" else "/" + quote(args.name, safe="")
    change = _send(args, BundleChange, method, name, None if args.action == "remove" else {"path": args.path})
    if args.json:
        return change.model_dump_json(indent=1)
    lines = []
    if change.added:
        lines.append(f"{change.added.name} {change.added.version} answers now, loaded in {change.load_s:.1f} s")
    if change.removed:
        lines.append(f"{change.removed.name} {change.removed.version} has gone, drained in {change.drain_s:.1f} s")
    return "\n".join([*lines, _table(change.bundles)])


def _table(bundles: list[BundleBody]) -> str:
    rows = [(bundle.name, bundle.family, bundle.version, bundle.path) for bundle in bundles]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) or "nothing is served"


def _send(
    args: argparse.Namespace, answer: type[Answer], method: str, name: str = "", body: dict[str, Any] | None = None
) -> Answer:
    """The server's answer, without a time limit: loading a large model takes minutes."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"} | _authorization(args)
    data = None if body is None else json.dumps(body).encode()
    try:
        request = Request(args.url.rstrip("/") + ADMIN_BUNDLES + name, data, headers, method=method)
        with _opener(args.url).open(request) as response:
            return answer.model_validate_json(response.read(_MAX_ANSWER_BYTES))
    except HTTPError as error:
        raise CommandError(_reason(error)) from None
    except ValidationError:
        raise CommandError(f"{args.url} does not answer as an Openset server") from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise CommandError(f"{args.url} cannot be reached: {getattr(error, 'reason', error)}") from None


def _opener(url: str) -> OpenerDirector:
    """Opener that takes the environment's proxies, but none to this machine's own address."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    return build_opener(_NoRedirect, *([ProxyHandler({})] if own else []))


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect, which would send the key to wherever it leads."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _reason(error: HTTPError) -> str:
    try:
        problem = Problem.model_validate_json(error.read(_MAX_ANSWER_BYTES))
    except (ValidationError, HTTPException, OSError):
        return f"the server answered {error.code} {error.reason}"
    if problem.type.endswith(":not-found"):
        return "this server does not let its bundles be changed: start it with bundle_roots and api_keys_file"
    return problem.detail


def _authorization(args: argparse.Namespace) -> dict[str, str]:
    key = os.environ.get(KEY, "")
    if args.key_file:
        try:
            key = read_regular(args.key_file, most=_MAX_KEY_BYTES).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{args.key_file} cannot be read: {error}") from None
    return {"Authorization": f"Bearer {key.strip()}"} if key.strip() else {}
