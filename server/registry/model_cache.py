"""Models served by their official names: bundles in the user's cache, made at first use by `openset pull`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from server.contract.manifest import BundleError, read_manifest
from server.settings import Settings

_ROOT = Path(__file__).parents[2]


class PullFailed(Exception):
    """A model that could not be had; `status` is the exit status to end with."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"the model {name!r} could not be had (above is why)")
        self.status = status


def cache_folder(given: Path | None) -> Path:
    """Where pulled models are kept: the folder given, else `openset` in the user's cache folder."""
    return given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openset"


def pulled_bundle(cache: Path, name: str) -> Path:
    """Where the bundle of the official model `name` is, once it has been pulled."""
    return cache / "bundles" / name


def is_pulled(folder: Path) -> bool:
    """Whether there is a bundle that this version reads, with the certificates of its graphs."""
    try:
        manifest = read_manifest(folder)
    except BundleError:
        return False
    return not any(artefact.uncertified for artefact in manifest.artefacts if artefact.engine is None)


def with_models(settings: Settings) -> Settings:
    """`settings` with the bundles of its `model` names behind its own; PullFailed where one cannot be had.

    What is not there yet is pulled in a process of its own: exporting needs PyTorch, which the server never loads.
    """
    cache = cache_folder(settings.cache_dir)
    for name in settings.model:
        if not is_pulled(pulled_bundle(cache, name)) and (status := _pull(name, cache)):
            raise PullFailed(name, status)
    bundles = tuple(pulled_bundle(cache, name) for name in settings.model)
    return settings.model_copy(update={"bundle": settings.bundle + bundles})


def _pull(name: str, cache: Path) -> int:
    """Run `openset pull`; its exit status. A signal that ends this process ends it too."""
    # Not the current folder's `server`, should there be one: the one that runs here.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "server", "pull", name, "--cache-dir", str(cache)]
    before = signal.signal(signal.SIGTERM, _end)
    try:
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
