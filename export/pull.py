"""`openset pull`: an official checkpoint by its name, from the Hugging Face hub to a certified bundle."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.progress import Progress
from models.model_zoo import OFFICIAL
from server.registry.model_cache import cache_folder, is_pulled, pulled_bundle
from server.settings import PREFIX

# What the way from checkpoint to bundle imports; asked for before gigabytes are fetched.
_NEEDED = ("torch", "onnx", "onnxscript", "safetensors", "onnxruntime", "huggingface_hub", "filelock")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Fill the parser of "pull" and set its `func`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="which one; without it, the names there are")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="PATH",
        help="where checkpoints and bundles are kept (default: OPENSET_CACHE_DIR, else openset in your cache folder)",
    )
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Pull a model; 0 where its certified bundle is there, 2 for a name that is none."""
    if args.name is None:
        for name, official in OFFICIAL.items():
            print(f"{name:24} {official.title:24} {official.licence:12} {official.repository}")
        return 0
    if args.name not in OFFICIAL:
        return _failed(f"{args.name!r} is no official model; there are {', '.join(OFFICIAL)}", status=2)
    cache = cache_folder(args.cache_dir or _of_environment())
    try:
        return _pull(args.name, cache, Progress(args.quiet))
    except KeyboardInterrupt:
        return _failed("interrupted; what has arrived is kept, and the same command goes on from there", status=130)


def _of_environment() -> Path | None:
    given = os.environ.get(PREFIX + "CACHE_DIR")
    return Path(given) if given else None


def _pull(name: str, cache: Path, progress: Progress) -> int:
    bundle = pulled_bundle(cache, name)
    if is_pulled(bundle):
        print(f"{bundle}: {name} is here already; remove the folder to pull it anew")
        return 0
    if missing := [module for module in _NEEDED if importlib.util.find_spec(module) is None]:
        return _failed(
            f"a bundle is made with PyTorch: {', '.join(missing)} not found. Install it with"
            " pip install 'openset[cpu,export]', or pull where it is and serve the bundle's folder with --bundle",
            status=2,
        )
    from models.hub import HubError

    try:
        with _alone(name, cache, progress):
            if not is_pulled(bundle):  # another process may have pulled it while this one waited
                _fetch_and_export(name, cache, bundle, progress)
    except (HubError, ValueError, OSError) as error:
        return _failed(str(error))
    if not is_pulled(bundle):
        return _failed(f"{bundle} is written, but FAILED its certificate")
    print(f"{bundle}: {name}, certified; openset serve --model {name}")
    return 0


@contextmanager
def _alone(name: str, cache: Path, progress: Progress) -> Iterator[None]:
    """Keep others from pulling this model too; they wait, and a process that ends lets them go on."""
    from filelock import FileLock, Timeout

    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.say(f"{name} is being pulled by another process: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_and_export(name: str, cache: Path, bundle: Path, progress: Progress) -> None:
    from huggingface_hub.utils import disable_progress_bars

    from export.bundle import export_bundle
    from models.hub import fetch

    official = OFFICIAL[name]
    progress.say(f"{name}: {official.title}, {official.repository} on the Hugging Face hub, licence {official.licence}")
    if progress.quiet:
        disable_progress_bars()
    with progress.stage("fetch the checkpoint"):
        fetched = fetch(official, cache / "checkpoints" / name, progress.say)
    progress.say(f"{fetched.path}: {fetched.source}, hashes right")
    export_bundle(fetched.path, bundle, name=name, source=fetched.source, progress=progress)


def _failed(reason: str, *, status: int = 1) -> int:
    print(f"openset pull: {reason}", file=sys.stderr)
    return status
