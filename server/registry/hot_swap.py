"""Bundles added, replaced and removed while requests are answered: loaded beside them, switched at once, then drained.

One change at a time. A bundle that fails its checks changes nothing; what was accepted before a switch is finished by
the bundle that accepted it, whose memory is given back after the last of it.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.bundle import Bundle
from server.contract.manifest import BundleError, read_manifest
from server.contract.text import shown
from server.errors import (
    BundleNameTaken,
    BundleRefused,
    ChangeInProgress,
    Fault,
    FieldFault,
    InvalidRequest,
    NotReady,
    UnknownModel,
)
from server.inference.pipeline import Pipeline
from server.memory.memory_budget import OverBudget
from server.memory.process_resources import return_free_memory
from server.registry.daemon_thread import in_daemon_thread
from server.registry.footprints import plan_folder
from server.registry.model_registry import LoadedModel, ModelRegistry, open_bundle
from server.registry.probe import tried
from server.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Which bundle is, or was, served, and from where."""

    name: str
    family: str
    version: str
    path: Path

    @classmethod
    def of(cls, served: LoadedModel) -> "Place":
        manifest = served.bundle.manifest
        return cls(manifest.name, manifest.family, manifest.version, served.bundle.folder)


@dataclass(frozen=True)
class Change:
    """What a change did, and the seconds until the switch and from it on."""

    added: Place | None
    removed: Place | None
    load_s: float
    drain_s: float


class HotSwap:
    """Changes to the catalog of a pipeline; used from the event loop's thread."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self._settings, self._pipeline = settings, pipeline
        self._registry: ModelRegistry = pipeline.registry
        self._running: asyncio.Task[Change] | None = None
        self._closing = False

    async def add(self, path: str) -> Change:
        """Serve the bundle in the folder `path`, behind the others.

        As all changes: it is finished even where the caller is cancelled. ChangeInProgress while another is; NotReady
        before the first bundles are loaded; BundleRefused, BundleNameTaken, InvalidRequest for a bundle that cannot
        be served, and then nothing has changed.
        """
        return await self._alone(self._change(None, path))

    async def replace(self, name: str, path: str) -> Change:
        """Serve the bundle in `path` in the place of the one named `name`; UnknownModel where there is none."""
        return await self._alone(self._change(name, path))

    async def remove(self, name: str) -> Change:
        """Serve the bundle named `name` no longer."""
        return await self._alone(self._change(name, None))

    async def close(self) -> None:
        """Begin no more changes, and leave the one in progress where it is: the process ends."""
        self._closing = True
        if self._running:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _alone(self, change: Coroutine[Any, Any, Change]) -> Change:
        if self._closing or not self._registry.ready or self._running:
            change.close()
            if self._running and not self._closing:
                raise ChangeInProgress("another bundle is being added, replaced or removed: ask again when it is done")
            raise NotReady("bundles are being loaded, or the server is stopping")
        self._running = asyncio.get_running_loop().create_task(change)
        self._running.add_done_callback(self._finished)
        return await asyncio.shield(self._running)

    def _finished(self, task: "asyncio.Task[Change]") -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()):  # told here too: who asked may have gone
            log.warning("what is served stays as it was: %s", error)

    async def _change(self, name: str | None, path: str | None) -> Change:
        started = time.monotonic()
        old = None if name is None else self._named(name)
        new = None if path is None else await self._loaded(path, replacing=old)
        self._registry.swap(old, new)
        switched = time.monotonic()
        added, removed = Place.of(new) if new else None, Place.of(old) if old else None
        log.info("%s added, %s removed", added.name if added else "nothing", removed.name if removed else "nothing")
        if old:
            await old.refcount.none_left()
            self._pipeline.forget(old)
            await in_daemon_thread(lambda: self._registry.release(old), name="release")
            del old
            await in_daemon_thread(_collect, name="release")
        return Change(added, removed, switched - started, time.monotonic() - switched)

    def _named(self, name: str) -> LoadedModel:
        for served in self._registry.served:
            if served.name == name:
                return served
        names = ", ".join(served.name for served in self._registry.served) or "none"
        raise UnknownModel(f"no bundle is named {shown(name)}; those being served: {names}")

    async def _loaded(self, path: str, *, replacing: LoadedModel | None) -> LoadedModel:
        folder = allowed(path, self._settings.bundle_roots)
        taken = [served.name for served in self._registry.served if served is not replacing]
        both = (
            f". Until {replacing.name} has answered its last request both are held: where clients can wait, remove it"
            " first and add this one then"
            if replacing
            else ""
        )
        try:
            return await in_daemon_thread(lambda: self._load(folder, taken), name="load")
        except OverBudget as error:
            raise BundleRefused(f"{error}{both}") from error
        except BundleError as error:
            raise BundleRefused(str(error)) from error
        except Fault:
            raise
        except Exception as error:  # runtimes raise their own classes, derived from Exception alone
            log.exception("%s cannot be run", folder)
            raise BundleRefused(f"{folder} cannot be run: {error}") from error

    def _load(self, folder: Path, taken: Sequence[str]) -> LoadedModel:
        manifest = read_manifest(folder)
        if manifest.name in taken:
            raise BundleNameTaken(f"a bundle named {manifest.name} is being served: replace it, or remove it first")
        self._registry.budget_with(plan_folder(folder, manifest, self._settings))
        on_gpu = self._settings.device.startswith("cuda") or any(served.bundle.gpu for served in self._registry.served)
        # A second process would take as much of the GPU again.
        trying = self._settings.warm_up != "none" and not on_gpu
        peaks = tried(folder, self._settings) if trying else None
        bundle: Bundle = open_bundle(folder, self._settings)
        return self._registry.prepare(bundle, peaks)


def _collect() -> None:
    # Requests that failed leave tracebacks in circles, whose frames hold the bundle.
    gc.collect()
    return_free_memory()


def allowed(path: str, roots: Sequence[Path]) -> Path:
    """The folder that `path` names, links resolved; InvalidRequest unless it lies within one of `roots`.

    What lies outside is not told apart from what is not there.
    """
    for root in roots:
        with suppress(OSError, RuntimeError):  # too long a name, a circle of links
            folder = (root / path).resolve()
            if folder.is_relative_to(root) and folder.is_dir():
                return folder
    listed = ", ".join(map(str, roots))
    raise InvalidRequest([FieldFault("path", f"{shown(path, 200)} is no folder within bundle_roots ({listed})")])
