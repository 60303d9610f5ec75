"""Folder of a bundle: while it is written, beside its target, and moved there once complete; and without int8 again."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export import ExportError
from server.contract.manifest import MANIFEST_FILE, FileHash, Manifest, read_manifest, sha256_of, write_manifest

TOKENIZER_FILE, REFERENCE_FILE, CANARY_FILE = "tokenizer.json", "reference.npz", "canary.npz"


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


def bundle_name(text: str) -> str:
    """Name of a bundle, made of `text`; ExportError where nothing of it can be in one."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    if not name:
        raise ExportError(f"bundle name is {text!r}; letters, digits, '.', '_' and '-' are expected")
    return name


def store(folder: Path, file: str, arrays: Mapping[str, npt.NDArray[Any]]) -> FileHash:
    """Write arrays to a file of the bundle."""
    np.savez_compressed(folder / file, allow_pickle=False, **arrays)
    return hashed(folder, file)


def hashed(folder: Path, file: str) -> FileHash:
    """Record of a file of the bundle."""
    return FileHash(file=file, sha256=sha256_of(folder / file))


def remove_int8(folder: Path) -> None:
    """Take the int8 graphs out of a bundle, which then serves in float32."""
    manifest = read_manifest(folder)
    graphs = [artefact for artefact in manifest.artefacts if artefact.precision == "int8"]
    left = tuple(artefact for artefact in manifest.artefacts if artefact not in graphs)
    write_manifest(folder, Manifest.model_validate(manifest.model_dump() | {"artefacts": left}))
    for graph in graphs:
        (folder / graph.file).unlink(missing_ok=True)


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the finished folder to its target; a bundle that was there goes once the new one is in place."""
    if not target.exists():
        folder.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        target.rename(Path(aside) / "old")
        folder.rename(target)
