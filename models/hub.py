"""Fetches an official checkpoint from the Hugging Face hub: resumes interrupted downloads, verifies hashes.

`huggingface_hub` speaks to the hub, but its downloads over HTTP start again with each process, and compare sizes only.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from models import CheckpointError, printable
from models.files_beside import CONFIG_FILE, read_json
from models.hub_client import HubError, HubUnreachable, use_own_client
from models.model_card import licence_of, spdx_name
from models.model_zoo import Official
from models.repository_files import check_model_type, check_size_of_settings, weights_of
from openset.proxies import note, proxy_for, shown

# Else its user agent lists the installed packages, after a request to the hub for the names to look for.
constants.HF_HUB_DISABLE_TELEMETRY = True

RECORD_FILE = "source.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
ATTEMPTS = 3
_PAUSE_S = 1.0
_TIMEOUT_S = 30.0
_SAVED = "downloaded data is kept, and the same command resumes there"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; digest: its SHA-256 or, for a small file, git's SHA-1 of it as a blob."""

    name: str
    size: int
    digest: str

    @property
    def is_plausible(self) -> bool:
        """True for a size and a hash as they can be; both come from the hub, and the hash names a file here."""
        hashed = re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", str(self.digest)) is not None
        return hashed and type(self.size) is int and 0 <= self.size < 2**50


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A checkpoint on disk: `path` to load, and `source`, its repository and commit."""

    path: Path
    source: str
    licence: str


def fetch(official: Official, folder: Path, say: Callable[[str], None]) -> FetchedCheckpoint:
    """Fetch a checkpoint into `folder`, unless it is complete there.

    One process at a time may fetch into a folder. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected; no other
    token is sent. HubError where it cannot be fetched.
    """
    record = _recorded(official, folder)
    if record is None:
        if is_offline_mode():
            raise HubUnreachable(f"HF_HUB_OFFLINE is set, and the checkpoint is not complete in {folder}")
        use_own_client()
        hub = _Hub(official)
        with hub.errors_explained():
            record = hub.listing(say)
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_full_disk(folder, record["files"])
            weights = weights_of(official, {file.name for file in record["files"]})
            for file in sorted(record["files"], key=lambda file: file.name in weights):  # small ones first
                if file.name in weights:
                    _check_model_type(official, record["files"], folder)
                hub.download(file, folder, record["commit"], say)
        _write(folder / RECORD_FILE, record)
    (weights_file, *_) = weights_of(official, {file.name for file in record["files"]})
    known = official.is_folder and weights_file.removesuffix(".index.json") in official.weights
    path = folder if known else folder / weights_file
    source = f"hf://{official.repository}@{record['commit']}"
    return FetchedCheckpoint(path, source, record.get("licence") or licence_of(folder) or official.licence)


def _check_model_type(official: Official, files: list[RemoteFile], folder: Path) -> None:
    names = {file.name for file in files}
    check_model_type(official, names, read_json(folder / CONFIG_FILE) if CONFIG_FILE in names else None)


class _Hub:
    """Client of the hub for one repository; HubError where the environment names no hub, or no token."""

    def __init__(self, official: Official) -> None:
        self._official = official
        self._endpoint = (os.environ.get("HF_ENDPOINT", "").strip() or constants.ENDPOINT).rstrip("/")
        self._shown = shown(self._endpoint)  # without a password
        self._host = _host(self._endpoint)
        if self._host is None:
            raise HubError(f"HF_ENDPOINT is {self._shown!r}; an address such as https://huggingface.co is expected")
        token = os.environ.get("HF_TOKEN", "").strip()
        if not (token.isascii() and token.isprintable()):
            raise HubError("HF_TOKEN holds characters that no token has: set it to the token alone")
        self._token: str | bool = token or False

    def listing(self, say: Callable[[str], None]) -> dict[str, Any]:
        """The newest commit, and its files to fetch."""
        api = HfApi(self._endpoint, token=self._token, library_name="openset")
        info = api.model_info(
            self._official.repository, revision=self._official.revision, timeout=_TIMEOUT_S, files_metadata=True
        )
        files = {str(sibling.rfilename): sibling for sibling in info.siblings or ()}
        weights = weights_of(self._official, files.keys())
        licence = getattr(info.card_data, "license", None)
        told = spdx_name(licence) if isinstance(licence, str) else None
        if licence:
            say(f"licence, according to the hub: {told or repr(licence)}")
        beside = [name for name in self._official.beside if name in files]
        wanted = []
        for name in filter(None, (self._official.config, *weights, *beside)):
            if name not in files or (size := files[name].size) is None:
                raise HubError(f"{self._official.repository} has no {name}, or hides its size: it may have changed")
            lfs = files[name].lfs
            wanted.append(RemoteFile(name, size, lfs.sha256 if lfs else str(files[name].blob_id)))
        if not _COMMIT.fullmatch(info.sha or "") or not all(file.is_plausible for file in wanted):
            raise ValueError("a size or a hash is none")
        for file in wanted:
            if file.name not in weights:
                check_size_of_settings(self._official, file.name, file.size)
        return {
            "repository": self._official.repository,
            "revision": self._official.revision,
            "commit": info.sha,
            "files": wanted,
            "licence": told,
        }

    def download(self, remote: RemoteFile, folder: Path, commit: str, say: Callable[[str], None]) -> None:
        """Download one file into `folder`, unless it is there; the name never holds unverified content."""
        target = folder / remote.name
        if target.is_file() and _digest(target, remote) == remote.digest:
            return
        part = folder / f"{remote.name}.{remote.digest[:16]}.part"
        for stale in set(folder.glob(f"{remote.name}.*.part")) - {part}:
            stale.unlink()
        for attempt in range(1, ATTEMPTS + 1):
            received = _received(part, remote)
            say(
                f"{remote.name}: {_shown(remote.size)}"
                + (f", {_shown(received)} of it downloaded before" if received else "")
            )
            try:
                self._append(remote, part, commit)
            except (httpx2.TransportError, OSError) as error:
                if attempt == ATTEMPTS or not _is_transient(error):
                    raise
                say(f"{remote.name}: the connection broke, resuming")
                time.sleep(_PAUSE_S)
                continue
            if _digest(part, remote) == remote.digest:
                part.replace(target)
                return
            part.unlink()
            say(f"{remote.name}: damaged in transit, its hash is not the hub's")
        raise HubError(f"{remote.name} arrived damaged {ATTEMPTS} times: its hash is not the hub's")

    def _append(self, remote: RemoteFile, part: Path, commit: str) -> None:
        url = hf_hub_url(self._official.repository, remote.name, revision=commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token, library_name="openset")
        with part.open("ab") as file:
            http_get(
                url,
                _Bounded(file, remote),  # type: ignore[arg-type]
                resume_size=file.tell(),
                headers=headers,
                expected_size=remote.size,
                displayed_filename=remote.name,
            )

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Raise errors of the hub, network and disk as a HubError of one sentence."""
        try:
            yield
        except HfHubHTTPError as error:
            raise self._refusal(error.response) from error
        except httpx2.TransportError as error:
            hint = "; SSL_CERT_FILE names the authorities that are trusted" if "CERTIFICATE" in str(error) else ""
            raise HubUnreachable(
                f"{self._shown} cannot be reached{note(self._endpoint)} ({error}): {_SAVED} once it can{hint};"
                " HF_ENDPOINT names another address"
            ) from error
        except OSError as error:
            if error.errno is None:  # of the library, whose advice does not apply here
                raise HubUnreachable(f"{self._shown} sends less than it has announced: {_SAVED}") from error
            raise
        except (httpx2.RequestError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise HubError(
                f"{self._shown} answers{note(self._endpoint)}, but not as the hub does ({type(error).__name__}): is"
                " HF_ENDPOINT right, and is there a proxy that asks for a login? Open the address in a browser to see"
            ) from error

    def _refusal(self, response: httpx2.Response) -> HubError:
        """The refusal of the hub, of where it keeps its files, or of a proxy, as a sentence."""
        status, repository, endpoint = response.status_code, self._official.repository, self._shown
        if status == 407:
            proxy = shown(proxy_for(str(response.url)) or "on the way")
            return HubUnreachable(
                f"the proxy {proxy} asks for a login (407): name it with both, as http://user:password@host"
            )
        if response.url.host != self._host:
            return HubUnreachable(
                f"{response.url.host}, where {endpoint} keeps its files, answers {status}{note(str(response.url))}: try"
                f" again later, and see that no firewall keeps it out; {_SAVED}"
            )
        if status in (401, 403):
            return HubError(
                f"{endpoint} denies access to {repository}{note(str(response.url))} ({status}): there is none of this"
                f" name, or it is gated or private. Ask for access at {endpoint}/{repository}, and set HF_TOKEN to a"
                " token with access"
            )
        if status == 404:
            return HubError(
                f"{endpoint} has no {repository} at {self._official.revision}, or not the required files (404)"
            )
        if status == 429:
            after = printable(response.headers.get("Retry-After", ""))
            wait = f" in {after} s" if after else " later"
            return HubError(f"{endpoint} gets too many requests from this address (429): try again{wait}; {_SAVED}")
        what_to_do = f"try again later; {_SAVED}" if status >= 500 else "are HF_ENDPOINT and HF_TOKEN right?"
        return HubError(f"{endpoint} answers {status} for {repository}: {what_to_do}")


def _host(endpoint: str) -> str | None:
    """The host of an address of the web, None where it is none."""
    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL:
        return None
    return url.host or None if url.scheme in ("http", "https") else None


class _Bounded:
    """File that takes as many bytes as the hub has announced, whatever it sends."""

    def __init__(self, file: BinaryIO, remote: RemoteFile) -> None:
        self._file, self._remote = file, remote

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._remote.size:
            raise HubError(f"{self._remote.name} is longer than the {_shown(self._remote.size)} that the hub announced")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _recorded(official: Official, folder: Path) -> dict[str, Any] | None:
    """Record of a complete earlier fetch, as `_Hub.listing` returned it; None if there is none."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        record["files"] = [RemoteFile(**file) for file in record["files"]]
        complete = all((folder / file.name).stat().st_size == file.size for file in record["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = (official.repository, official.revision)
    return record if complete and (record.get("repository"), record.get("revision", "main")) == wanted else None


def _write(path: Path, record: dict[str, Any]) -> None:
    written = path.with_suffix(".tmp")
    written.write_text(
        json.dumps(record | {"files": [asdict(file) for file in record["files"]]}, indent=1) + "\n", encoding="utf-8"
    )
    written.replace(path)


def _received(part: Path, remote: RemoteFile) -> int:
    """Bytes of an earlier, partial download; one that is too long is deleted."""
    size = part.stat().st_size if part.is_file() else 0
    if size > remote.size:
        part.unlink()
        return 0
    return size


def _refuse_full_disk(folder: Path, files: list[RemoteFile]) -> None:
    """HubError if the checkpoint and its bundle, about as large again, do not fit on the disk."""
    present = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    total = sum(file.size for file in files)
    needed, free = 2 * total - min(present, total), shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{folder} has {_shown(free)} free, the checkpoint and its bundle need {_shown(needed)}:"
            " free some space, or choose another folder with --cache-dir or OPENSET_CACHE_DIR"
        )


def _digest(path: Path, remote: RemoteFile) -> str:
    """Hash of a file, of the same kind as the hub's."""

    def initial() -> Any:
        if len(remote.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)

    with path.open("rb") as file:
        return hashlib.file_digest(file, initial).hexdigest()


def _is_transient(error: Exception) -> bool:
    """True for a broken connection, a server error, or a truncated response (an OSError without errno)."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError) or (isinstance(error, OSError) and error.errno is None)


def _shown(size: int) -> str:
    if size < 1e6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
