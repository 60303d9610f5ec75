"""API keys: a file of names and SHA-256 hashes, read again at every request, and the command `openset key`.

A line is `NAME HASH`, or `NAME HASH admin` for a key that may also change what is served; empty lines and lines that
begin with # are skipped. Two lines with one name are one client, so that its key can be rotated without a gap.

A key counts while its line stands in the file: a line that is mistyped, a file that is emptied or removed takes its
keys with it, and while the file cannot be read no key counts (503). Time stamps would miss a second change within one
tick of the file system's clock, and reading costs some hundredths of a millisecond.
"""

import argparse
import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers

from server.errors import NotReady, Unauthorized
from server.settings import SettingsError

log = logging.getLogger(__name__)

PREFIX = "osk_"  # lets secret scanners recognise a key
_LINE = re.compile(r"([\w.@-]{1,64})\s+([0-9a-f]{64})(\s+admin)?")
_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Key:
    """The name of a key's client; `admin` keys may change what is served."""

    name: str
    admin: bool


class Keys:
    """The keys of a file; SettingsError if it cannot be used at start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = ""  # the fault of the file that was logged last
        try:
            self._content = _read(path)
        except OSError as error:
            raise SettingsError(f"api_keys_file {path} cannot be read: {error.strerror}") from None
        self._hashes, wrong = _parse(self._content)
        if wrong:
            raise SettingsError(self._fault(self._hashes, wrong))
        if not self._hashes:
            raise SettingsError(f"api_keys_file {path} has no key; `openset key new NAME` prints a line for it")

    def key(self, headers: Headers) -> Key:
        """The key in a request's headers; Unauthorized if it is missing or unknown.

        NotReady while the file cannot be read: it may have removed any key.
        """
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
        try:
            content = _read(self._path)
        except (FileNotFoundError, NotADirectoryError):
            content = b""
        except OSError as error:
            self._tell(f"api_keys_file {self._path} cannot be read, and no key counts: {error.strerror}")
            raise NotReady(
                "the API keys cannot be read: try again later, and tell the operator of this server"
            ) from None
        if content != self._content:
            self._content = content
            self._hashes, wrong = _parse(content)
            log.info("API keys reloaded: %d", len(self._hashes))
            self._told = ""
            self._tell(self._fault(self._hashes, wrong))

    def _tell(self, fault: str) -> None:
        """Log a fault once, not at every request."""
        if fault != self._told:
            log.error("%s", fault)
        self._told = fault

    def _fault(self, hashes: Sequence[tuple[str, Key]], wrong: Sequence[int]) -> str:
        if wrong:  # the line is not shown: it may be a key
            return (
                f"api_keys_file {self._path}, line {wrong[0]}, is not a NAME and a SHA-256 hash;"
                " `openset key new NAME` prints such a line"
            )
        return "" if hashes else f"api_keys_file {self._path} is gone or has no key: every key is refused"


def _read(path: Path) -> bytes:
    """The bytes of a regular file; a pipe would block, and could be read but once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = os.read(descriptor, _MAX_BYTES + 1)
        while chunk := os.read(descriptor, _MAX_BYTES):
            content += chunk
            if len(content) > _MAX_BYTES:
                break
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {_MAX_BYTES} bytes")
    return content


def _parse(content: bytes) -> tuple[list[tuple[str, Key]], list[int]]:
    """The keys by their hashes, and the numbers of the lines that are none."""
    hashes, wrong = [], []
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if match := _LINE.fullmatch(line.strip()):
            hashes.append((match[2], Key(match[1], admin=match[3] is not None)))
        else:
            wrong.append(number)
    return hashes, wrong


def digest_of(key: str) -> str:
    """The hash of a key in the file. Keys are long and random, so a fast hash is as safe as a slow one."""
    return hashlib.sha256(key.encode()).hexdigest()


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
