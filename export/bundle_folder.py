"""Folder of a bundle while it is written, and what a command adds to a bundle: complete, or not there at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from export import ExportError
from openset.folder_lock import locked
from server.contract.manifest import (
    MANIFEST_FILE,
    Artefact,
    FileHash,
    Manifest,
    read_manifest,
    sha256_of,
    write_manifest,
)

TOKENIZER_FILE, REFERENCE_FILE, CANARY_FILE = "tokenizer.json", "reference.npz", "canary.npz"
Entry = TypeVar("Entry", FileHash, Artefact)
_ADDED = ".added-"  # prefix of a folder for files on their way into the bundle


@contextmanager
def bundle_in_place(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` when the context ends; after an error nothing of it is left.

    A bundle that is there already is replaced; ExportError for anything else.
    """
    if target.exists() and not (target / MANIFEST_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} exists and is no bundle: name another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        _put_in_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def additions(folder: Path) -> Iterator[Path]:
    """An empty folder in a bundle for new files, which `put` moves; one command at a time adds to a bundle.

    BundleError where it is none, ExportError where another command does. What a killed one left goes.
    """
    read_manifest(folder)
    with locked(folder, ExportError(f"another command is adding to {folder}: try again once it has ended")):
        for left in folder.glob(f"{_ADDED}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_ADDED, dir=folder) as added:
            yield Path(added)


def put(added: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Move what `manifest` names from `added` into the bundle, write it, remove what only the old one names.

    Returns it as it is written: a new file whose name other bytes have has its hash in its name. So the folder is the
    old bundle until its manifest is the new one, whatever ends the command.
    """
    old = {entry.file: entry.sha256 for entry in _files(read_manifest(folder))}

    def moved(entry: Entry) -> Entry:
        source, name = added / entry.file, Path(entry.file)
        if not source.is_file():
            return entry
        if old.get(entry.file, entry.sha256) != entry.sha256:
            name = Path(f"{name.stem}-{entry.sha256[:8]}{name.suffix}")
        source.replace(folder / name)
        return entry.model_copy(update={"file": str(name)})

    manifest = manifest.model_copy(
        update={
            "canary": moved(manifest.canary),
            "reference": manifest.reference and moved(manifest.reference),
            "artefacts": tuple(moved(artefact) for artefact in manifest.artefacts),
        }
    )
    write_manifest(folder, manifest)
    for unused in old.keys() - {entry.file for entry in _files(manifest)}:
        (folder / unused).unlink(missing_ok=True)
    return manifest


def link_files(folder: Path, files: Iterable[str], target: Path) -> None:
    """Have files of a bundle in `target` too: by hard links, or copied where the file system has none."""
    for file in files:
        try:
            os.link((folder / file).resolve(), target / file)
        except OSError:
            shutil.copyfile(folder / file, target / file)


def files_of(artefact: Artefact) -> list[str]:
    """Names of the files that hold an artefact."""
    return [artefact.file, *(entry.file for entry in artefact.data)]


def bundle_name(text: str) -> str:
    """Name of a bundle, made of `text`; ExportError where nothing of it can be in one."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    if not name:
        raise ExportError(f"bundle name is {text!r}; letters, digits, '.', '_' and '-' are expected")
    return name


def store(folder: Path, file: str, arrays: Mapping[str, npt.NDArray[Any]]) -> FileHash:
    """Write arrays to a file of the bundle, a new one where it has been a link."""
    (folder / file).unlink(missing_ok=True)
    np.savez_compressed(folder / file, allow_pickle=False, **arrays)
    return hashed(folder, file)


def hashed(folder: Path, file: str) -> FileHash:
    """Record of a file of the bundle."""
    return FileHash(file=file, sha256=sha256_of(folder / file))


def remove_int8(folder: Path) -> None:
    """Take the int8 graphs out of a bundle, which then serves in float32."""
    with additions(folder) as added:
        manifest = read_manifest(folder)
        left = tuple(artefact for artefact in manifest.artefacts if artefact.precision != "int8")
        put(added, folder, manifest.model_copy(update={"artefacts": left}))


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the finished folder to its target; a bundle that was there goes once the new one is in place."""
    if not target.exists():
        folder.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        old = target.rename(Path(aside) / "old")
        try:
            folder.rename(target)
        except BaseException:
            if not target.exists():
                old.rename(target)
            raise


def _files(manifest: Manifest) -> Iterator[FileHash | Artefact]:
    yield manifest.tokenizer
    yield manifest.canary
    if manifest.reference is not None:
        yield manifest.reference
    for artefact in manifest.artefacts:
        yield artefact
        yield from artefact.data
