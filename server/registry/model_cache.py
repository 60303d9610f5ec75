"""Model cache: bundles of official models in the user's cache folder, made at first use by `openset pull`."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from server.contract.manifest import BundleError, read_manifest
from server.registry.daemon_thread import end_process
from server.settings import PREFIX, Settings, SettingsError
from server.stop_signals import STOP

_ROOT = Path(__file__).parents[2]
BUNDLED = _ROOT / "server" / "bundles"  # bundles that ship with the package
_LOOK_EVERY_S, _END_WITHIN_S = 0.1, 3.0


class PullFailed(Exception):
    """A model could not be pulled; `status` is the exit status for the command."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"the model {name!r} could not be pulled (see above)")
        self.status = status


def cache_folder(given: Path | None) -> Path:
    """The folder of pulled models: the one given, that of OPENSET_CACHE_DIR, or `openset` in the user's cache folder.

    SettingsError where the user has none: no HOME, and no entry in the system's list of users.
    """
    if chosen := given or os.environ.get(PREFIX + "CACHE_DIR"):
        return Path(chosen)
    if own := os.environ.get("XDG_CACHE_HOME"):
        return Path(own) / "openset"
    try:
        return Path.home() / ".cache" / "openset"
    except RuntimeError:
        raise SettingsError(
            "pulled models have no folder, since this user has no home: name one with --cache-dir or OPENSET_CACHE_DIR"
        ) from None


def bundle_name(model: str) -> str:
    """Name of a pulled model in requests, and of its folder: its own, or "org--name" of a repository "org/name"."""
    return re.sub(r"[/@]", "--", model.strip()).lower()


def pulled_bundle(cache: Path, model: str) -> Path:
    """The folder of the bundle of a model, an official one or a repository, once it has been pulled."""
    return cache / "bundles" / bundle_name(model)


def ships(model: str) -> bool:
    """True for the name of a bundle that ships with the package."""
    return is_pulled(BUNDLED / bundle_name(model))


def is_pulled(folder: Path) -> bool:
    """True for the folder of a bundle that this version reads, and whose graphs are certified."""
    try:
        manifest = read_manifest(folder)
    except BundleError:
        return False
    return not any(artefact.uncertified for artefact in manifest.artefacts if artefact.engine is None)


def bundles_of(name: str | None, given: Sequence[Path]) -> tuple[Path, ...]:
    """Bundles for a command to open: those given, else that of the pulled model `name`, else none: the bundled ones."""
    if given or name is None or Path(name).name != name:
        return tuple(given)
    try:
        folder = pulled_bundle(cache_folder(None), name)
    except SettingsError:
        return ()
    return (folder,) if is_pulled(folder) else ()


def with_models(settings: Settings) -> Settings:
    """`settings` with the bundles of its `model` names behind its own; PullFailed where one cannot be pulled.

    Pulling runs in a subprocess: its memory is free again when it ends, and the server imports nothing but its own.
    """
    if not settings.model:
        return settings
    cache = cache_folder(settings.cache_dir)
    bundles = tuple(_bundle(name, cache) for name in settings.model)
    return settings.model_copy(update={"bundle": settings.bundle + bundles})


def _bundle(name: str, cache: Path) -> Path:
    """The folder of a model's bundle, which ships with the package or is pulled if it has not been yet."""
    if ships(name):
        return BUNDLED / bundle_name(name)
    folder = pulled_bundle(cache, name)
    if not is_pulled(folder) and (status := _pull(name, cache)):
        raise PullFailed(name, status)
    return folder


def _pull(name: str, cache: Path) -> int:
    """Exit status of `openset pull`, which a signal that ends this process ends too."""
    # This installation, not a package `server` in the current folder.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "server", "pull", name, "--cache-dir", str(cache)]
    told_to_stop = threading.Event()
    with STOP.leading_to(told_to_stop.set):
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}) as pull:
            while pull.poll() is None and not told_to_stop.wait(_LOOK_EVERY_S):
                pass
            if told_to_stop.is_set():
                _end(pull)
                end_process(0)
        return pull.returncode


def _end(pull: "subprocess.Popen[bytes]") -> None:
    pull.terminate()
    try:
        pull.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        pull.kill()
        pull.wait()
