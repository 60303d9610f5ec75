"""API keys: a file of names and SHA-256 hashes, reloaded when it changes, and the command `openset key`.

A line is `NAME HASH`, or `NAME HASH admin` for a key that may also change what is served; empty lines and lines that
begin with # are skipped. Two lines with one name are one client, so that its key can be rotated without a gap.
"""

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers

from server.errors import Unauthorized
from server.settings import SettingsError

log = logging.getLogger(__name__)

PREFIX = "osk_"  # lets secret scanners recognise a key
_LINE = re.compile(r"([\w.@-]{1,64})\s+([0-9a-f]{64})(\s+admin)?")
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Key:
    """The name of a key's client; `admin` keys may change what is served."""

    name: str
    admin: bool


class Keys:
    """The keys of a file; SettingsError if it cannot be used at start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: _Stamp | None = None
        self._stamp, self._hashes = self._read()

    def key(self, headers: Headers) -> Key:
        """The key in a request's headers; Unauthorized if it is missing or unknown."""
        self._reload()
        key = _sent_key(headers)
        if not key:
            raise Unauthorized("send an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'", wrong=False)
        found = None
        digest = digest_of(key)
        for known, listed in self._hashes:  # all of them, so that the time reveals nothing
            if hmac.compare_digest(digest, known):
                found = listed
        if found is None:
            raise Unauthorized("this API key is unknown to this server, or was removed", wrong=True)
        return found

    def _reload(self) -> None:
        if _stamp_of(self._path) == self._stamp:
            return
        try:
            self._stamp, self._hashes = self._read()
            log.info("API keys reloaded: %d", len(self._hashes))
        except SettingsError as error:
            self._stamp = _stamp_of(self._path)  # logged once for each state of the file
            log.error("the API keys are unchanged: %s", error)

    def _read(self) -> tuple[_Stamp | None, list[tuple[str, Key]]]:
        stamp = _stamp_of(self._path)  # before reading: a change in between is noticed next time
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError(f"api_keys_file {self._path} cannot be read: {reason}") from None
        hashes = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:  # the line is not shown: it may be a key
                raise SettingsError(
                    f"api_keys_file {self._path}, line {number}, is not a NAME and a SHA-256 hash;"
                    " `openset key new NAME` prints such a line"
                )
            hashes.append((match[2], Key(match[1], admin=match[3] is not None)))
        if not hashes:
            raise SettingsError(f"api_keys_file {self._path} has no key; `openset key new NAME` prints a line for it")
        return stamp, hashes


def digest_of(key: str) -> str:
    """The hash of a key in the file. Keys are long and random, so a fast hash is as safe as a slow one."""
    return hashlib.sha256(key.encode()).hexdigest()


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `openset key`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="print a new key and its line for api_keys_file")
    new.add_argument("name", nargs="?", metavar="NAME", help="name of the client, which appears in logs")
    new.add_argument("--admin", action="store_true", help="the key may also change what is served (`openset bundles`)")
    new.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run `openset key new`."""
    name = args.name or f"client-{secrets.token_hex(2)}"
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name} {digest_of(key)}" + (" admin" if args.admin else "")
    if not _LINE.fullmatch(line):
        print(f"openset key: {name!r} is not a name for a key: use up to 64 letters, digits and ._@-", file=sys.stderr)
        return 2
    print(f"key, shown only now:     {key}\nline for api_keys_file:  {line}")
    return 0


def _sent_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
