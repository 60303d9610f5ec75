"""`openset pull`: fetches a published checkpoint from the Hugging Face hub and makes its certified bundle.

The checkpoint's weights are filled into the model's graph template, without PyTorch; `--full` exports it instead, as
does a checkpoint that no template fits.
"""

import argparse
import errno
import importlib.util
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from export.progress import Progress, in_int8
from export.templates.template import StoredTemplate, read_template, template_file
from models import UnknownCheckpoint
from models.model_zoo import OFFICIAL, Official, repository
from server.contract.manifest import read_manifest
from server.installation import install_command
from server.registry.model_cache import BUNDLED, bundle_name, cache_folder, is_pulled, pulled_bundle, ships
from server.settings import SettingsError

# Packages that fetching and filling import, and those of an export; checked before gigabytes are fetched.
_REQUIRED = ("onnxruntime", "huggingface_hub", "httpx2", "filelock")
_REQUIRED_TO_EXPORT = ("torch", "onnx", "onnxscript", "safetensors")
_REQUIRED_BY = {None: (), "int8": ("onnx",), "export": _REQUIRED_TO_EXPORT}


def run(args: argparse.Namespace) -> int:
    """Run `openset pull`; 0 if the bundles are there, 1 if one failed its certificate, 2 for what cannot be pulled."""
    if not args.names:
        for name, known in OFFICIAL.items():
            print(f"{name:24} {known.title:24} {known.licence:12} {known.repository}")
        return 0
    names = [name for word in args.names for name in word.replace(",", " ").split()]
    if not names:
        print("no model is named: there is nothing to pull")
        return 0
    try:
        cache, progress = cache_folder(args.cache_dir), Progress(args.quiet)
        if unknown := [name for name in names if official(name) is None and not ships(name)]:
            return _failed(_unknown(unknown[0], cache))
        statuses = [_pull(name, cache, progress, full=args.full, precision=args.precision) for name in names]
        return 1 if 0 < statuses.count(0) < len(statuses) else max(statuses)
    except SettingsError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted; downloaded data is kept, and the same command resumes there", status=130)


def official(name: str) -> Official | None:
    """The checkpoint of this name, or that of the repository of this name."""
    return OFFICIAL.get(name) or repository(name)


def _unknown(name: str, cache: Path) -> str:
    bundled = [manifest.parent.name for manifest in BUNDLED.glob("*/manifest.json")]
    near = "".join(get_close_matches(name, (*OFFICIAL, *bundled), n=1))
    hint = near and f", {near} is{' bundled' if near in bundled else ''}"
    return (
        f"{name!r} is no official model{hint}; known are {', '.join(OFFICIAL)}, and"
        " repositories of these families as org/name. For a file of yours: openset export --checkpoint FILE --out"
        f" FOLDER, then openset serve --bundle FOLDER. Pulled models are in {cache}"
    )


def _pull(name: str, cache: Path, progress: Progress, *, full: bool, precision: str | None) -> int:
    int8 = precision == "int8"
    if ships(name):
        return _ships(name, int8)
    bundle, known = pulled_bundle(cache, name), OFFICIAL.get(name)
    full = full or (known is not None and not template_file(name).is_file())
    if _is_there(bundle, full, int8):
        if precision == "fp32":
            from export.bundle_folder import remove_int8  # needs NumPy

            remove_int8(bundle)
        print(f"{bundle}: {name} is already there{in_int8(read_manifest(bundle))}; remove the folder to pull it again")
        return 0
    extra = "export" if full else "int8" if int8 else None
    if missing := [module for module in (*_REQUIRED, *_REQUIRED_BY[extra]) if importlib.util.find_spec(module) is None]:
        return _failed(
            f"it needs {', '.join(missing)}, which is not installed. Install it with"
            f" {install_command(('cpu', extra) if extra else ('cpu',))}, or pull on another machine and serve the"
            " bundle's folder with --bundle"
        )
    from models.hub_client import HubError, HubUnreachable

    try:
        with _locked(name, cache, progress):
            if not _is_there(bundle, full):  # another process may have pulled it while this one waited
                _remove_leftovers(bundle)
                _fetch_and_make(name, cache, bundle, progress, full=full)
            if int8 and is_pulled(bundle) and not _is_there(bundle, full, int8):
                from export.int8_graphs import add_int8  # needs the package onnx

                add_int8(bundle, progress=progress)
    except HubUnreachable as error:
        return _failed(
            f"{error}. Without a network: pull it on another machine and copy {bundle}, or serve a bundle that you have"
            " with --bundle"
        )
    except OSError as error:
        return _failed(_of_the_cache(error))
    except (HubError, ValueError) as error:
        return _failed(str(error))
    if not is_pulled(bundle):
        return _failed(f"{bundle} is written, but FAILED its certificate", status=1)
    manifest = read_manifest(bundle)
    print(f"{bundle}: {name}, certified: {manifest.certified}{in_int8(manifest)}; openset serve --model {name}")
    return 0


def _ships(name: str, int8: bool) -> int:
    """Tell about a bundled model that there is nothing to do, or for int8 how a copy is exported."""
    if not int8:
        print(f"{name} ships with the package: there is nothing to pull")
        return 0
    source, copy = shlex.quote(str(BUNDLED / name)), f"{name}-int8"
    return _failed(
        f"{name} ships with the package, and stays as it is. For int8: cp -r {source} {copy} &&"
        f" openset export --out {copy} --name {copy} --precision int8, then openset serve --bundle {copy}"
    )


def _of_the_cache(error: OSError) -> str:
    """A sentence for an error of the disk, with the way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error}): downloaded data is kept, and the same command goes on once there is space"
    why = ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = "this user may not write there. Change the folder's owner, or "
    return f"{error}: {why}choose another folder with --cache-dir or OPENSET_CACHE_DIR"


def _remove_leftovers(bundle: Path) -> None:
    """Remove what killed pulls of this model left beside its bundle: folders of `bundle_in_place`."""
    for folder in bundle.parent.glob(f".{bundle.name}-" + "?" * 8):
        shutil.rmtree(folder, ignore_errors=True)


def _is_there(bundle: Path, full: bool, int8: bool = False) -> bool:
    if not is_pulled(bundle):
        return False
    manifest = read_manifest(bundle)
    return (not full or manifest.certified == "full") and (not int8 or bool(manifest.int8_parts))


@contextmanager
def _locked(name: str, cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a model's pull; other processes wait until this one ends."""
    from filelock import FileLock, Timeout

    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / f"{bundle_name(name)}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.say(f"{name} is being pulled by another process: waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_and_make(name: str, cache: Path, bundle: Path, progress: Progress, *, full: bool) -> None:
    from huggingface_hub.utils import disable_progress_bars

    from export.templates.fill import fill_bundle
    from models.hub import fetch

    wanted = official(name)
    assert wanted is not None, name
    licence = f", licence {wanted.licence}" if name in OFFICIAL else ""
    progress.say(f"{name}: {wanted.title}, {wanted.repository} on the Hugging Face hub{licence}")
    if progress.quiet:
        disable_progress_bars()
    with progress.stage("fetch the checkpoint"):
        fetched = fetch(wanted, cache / "checkpoints" / bundle_name(name), progress.say)
    progress.say(f"{fetched.path}: {fetched.source}, hashes verified")
    source, licence, own = fetched.source, fetched.licence, bundle_name(name)
    if template := None if full else _template(name, wanted, fetched.path, progress):
        fill_bundle(template, fetched.path, bundle, name=own, licence=licence, source=source, progress=progress)
    else:
        from export.bundle import export_bundle

        export_bundle(fetched.path, bundle, name=own, source=source, licence=licence, progress=progress)


def _template(name: str, wanted: Official, checkpoint: Path, progress: Progress) -> StoredTemplate | None:
    """The template of a model; None where the checkpoint of a repository needs an export, which can be made here."""
    from export.templates.choice import template_for

    if name in OFFICIAL:
        return read_template(template_file(name))
    try:
        return template_for(checkpoint)
    except UnknownCheckpoint as error:
        if missing := [module for module in _REQUIRED_TO_EXPORT if importlib.util.find_spec(module) is None]:
            raise UnknownCheckpoint(
                f"{wanted.repository}: {error}. An export may serve it, and needs {', '.join(missing)}:"
                f" {install_command(('cpu', 'export'))}, then the same command"
            ) from error
        progress.say(f"{error}: it is exported, with PyTorch")
        return None


def _failed(reason: str, *, status: int = 2) -> int:
    print(f"openset pull: {reason}", file=sys.stderr)
    return status
