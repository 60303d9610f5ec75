"""Model cache: bundles of official models in the user's cache folder, made at first use by `openset pull`."""

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
    """A model could not be pulled; `status` is the exit status for the command."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"the model {name!r} could not be pulled (see above)")
        self.status = status


def cache_folder(given: Path | None) -> Path:
    """The folder of pulled models: the one given, else `openset` in the user's cache folder."""
    return given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openset"


def pulled_bundle(cache: Path, name: str) -> Path:
    """The folder of the bundle of the official model `name`, once it has been pulled."""
    return cache / "bundles" / name


def is_pulled(folder: Path) -> bool:
    """True for the folder of a bundle that this version reads, and whose graphs are certified."""
    try:
        manifest = read_manifest(folder)
    except BundleError:
        return False
    return not any(artefact.uncertified for artefact in manifest.artefacts if artefact.engine is None)


def with_models(settings: Settings) -> Settings:
    """`settings` with the bundles of its `model` names behind its own; PullFailed where one cannot be pulled.

    Pulling runs in a subprocess: exporting needs PyTorch, which the server never loads.
    """
    cache = cache_folder(settings.cache_dir)
    for name in settings.model:
        if not is_pulled(pulled_bundle(cache, name)) and (status := _pull(name, cache)):
            raise PullFailed(name, status)
    bundles = tuple(pulled_bundle(cache, name) for name in settings.model)
    return settings.model_copy(update={"bundle": settings.bundle + bundles})


def _pull(name: str, cache: Path) -> int:
    """Exit status of `openset pull`, which a signal that ends this process ends too."""
    # This installation, not a package `server` in the current folder.
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
