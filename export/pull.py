"""`openset pull`: fetches an official checkpoint from the Hugging Face hub and makes its certified bundle.

The checkpoint's weights are filled into the model's graph template, without PyTorch; `--full` exports it instead.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.progress import Progress
from export.templates.template import read_template, template_file
from models.model_zoo import OFFICIAL
from server.contract.manifest import read_manifest
from server.installation import install_command
from server.registry.model_cache import cache_folder, is_pulled, pulled_bundle
from server.settings import SettingsError

# Packages that fetching and filling import, and those of an export; checked before gigabytes are fetched.
_REQUIRED = ("onnxruntime", "huggingface_hub", "httpx2", "filelock")
_REQUIRED_TO_EXPORT = ("torch", "onnx", "onnxscript", "safetensors")


def run(args: argparse.Namespace) -> int:
    """Run `openset pull`; exit status 0 if the certified bundle is there, 2 for an unknown name."""
    if args.name is None:
        for name, official in OFFICIAL.items():
            print(f"{name:24} {official.title:24} {official.licence:12} {official.repository}")
        return 0
    if args.name not in OFFICIAL:
        return _failed(f"{args.name!r} is no official model; known are {', '.join(OFFICIAL)}", status=2)
    try:
        return _pull(args.name, cache_folder(args.cache_dir), Progress(args.quiet), full=args.full)
    except SettingsError as error:
        return _failed(str(error), status=2)
    except KeyboardInterrupt:
        return _failed("interrupted; downloaded data is kept, and the same command resumes there", status=130)


def _pull(name: str, cache: Path, progress: Progress, *, full: bool) -> int:
    bundle = pulled_bundle(cache, name)
    full = full or not template_file(name).is_file()
    if _is_there(bundle, full):
        print(f"{bundle}: {name} is already there; remove the folder to pull it again")
        return 0
    needed = (*_REQUIRED, *(_REQUIRED_TO_EXPORT if full else ()))
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        return _failed(
            f"it needs {', '.join(missing)}, which is not installed. Install it with"
            f" {install_command(('cpu', 'export') if full else ('cpu',))}, or pull on another machine and serve the"
            " bundle's folder with --bundle",
            status=2,
        )
    from models.hub import HubError

    try:
        with _locked(name, cache, progress):
            if not _is_there(bundle, full):  # another process may have pulled it while this one waited
                _fetch_and_make(name, cache, bundle, progress, full=full)
    except (HubError, ValueError, OSError) as error:
        return _failed(str(error))
    if not is_pulled(bundle):
        return _failed(f"{bundle} is written, but FAILED its certificate")
    print(f"{bundle}: {name}, certified: {read_manifest(bundle).certified}; openset serve --model {name}")
    return 0


def _is_there(bundle: Path, full: bool) -> bool:
    return is_pulled(bundle) and (not full or read_manifest(bundle).certified == "full")


@contextmanager
def _locked(name: str, cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a model's pull; other processes wait until this one ends."""
    from filelock import FileLock, Timeout

    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / f"{name}.lock")
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

    official = OFFICIAL[name]
    progress.say(f"{name}: {official.title}, {official.repository} on the Hugging Face hub, licence {official.licence}")
    if progress.quiet:
        disable_progress_bars()
    with progress.stage("fetch the checkpoint"):
        fetched = fetch(official, cache / "checkpoints" / name, progress.say)
    progress.say(f"{fetched.path}: {fetched.source}, hashes verified")
    if full:
        from export.bundle import export_bundle

        source, licence = fetched.source, fetched.licence
        export_bundle(fetched.path, bundle, name=name, source=source, licence=licence, progress=progress)
    else:
        template = read_template(template_file(name))
        fill_bundle(template, fetched.path, bundle, licence=fetched.licence, source=fetched.source, progress=progress)


def _failed(reason: str, *, status: int = 1) -> int:
    print(f"openset pull: {reason}", file=sys.stderr)
    return status
