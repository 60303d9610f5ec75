"""Hot swap: bundles added, replaced and removed while serving; loaded beside the others, switched, then drained.

One change at a time. A bundle that fails its checks changes nothing; requests accepted before a switch are finished by
the model that accepted them, whose memory is freed after the last.
"""

import asyncio
import logging
import subprocess
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
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
from server.inference.loaded_model import LoadedModel
from server.memory.heap import freeze_objects
from server.memory.memory_budget import OverBudget
from server.memory.process_resources import return_free_memory
from server.registry.daemon_thread import in_daemon_thread
from server.registry.footprints import plan_folder
from server.registry.model_registry import ModelRegistry, open_bundle
from server.registry.probe import probe_bundle
from server.schemas import BundleBody, BundleChange
from server.settings import Settings

log = logging.getLogger(__name__)


class HotSwap:
    """Changes the models of `registry`; `forget` drops caches of a removed one. Used from the event loop's thread."""

    def __init__(self, settings: Settings, registry: ModelRegistry, *, forget: Callable[[LoadedModel], None]) -> None:
        self._settings, self._registry, self._forget = settings, registry, forget
        self._running: asyncio.Task[BundleChange] | None = None
        self._closing = False
        self._trials: list[subprocess.Popen[str]] = []

    async def add(self, path: str) -> BundleChange:
        """Serve the bundle in the folder `path`, behind the others.

        Cancelling the caller does not stop this or any other change. ChangeInProgress while another one runs; NotReady
        before the first bundles are loaded; BundleRefused, BundleNameTaken, InvalidRequest for a bundle that cannot
        be served, which changes nothing.
        """
        return await self._exclusively(self._change(None, path))

    async def replace(self, name: str, path: str) -> BundleChange:
        """Serve the bundle in `path` in place of the one called `name`; UnknownModel where there is none."""
        return await self._exclusively(self._change(name, path))

    async def remove(self, name: str) -> BundleChange:
        """Stop serving the bundle called `name`."""
        return await self._exclusively(self._change(name, None))

    async def close(self) -> None:
        """Start no more changes and abandon the one in progress: the process ends."""
        self._closing = True
        for trial in self._trials:
            trial.kill()
        if self._running:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _exclusively(self, change: Coroutine[Any, Any, BundleChange]) -> BundleChange:
        if self._closing or not self._registry.ready or self._running:
            change.close()
            if self._running and not self._closing:
                raise ChangeInProgress("another bundle is being added, replaced or removed: ask again when it is done")
            raise NotReady("bundles are being loaded, or the server is stopping")
        self._running = asyncio.get_running_loop().create_task(change)
        self._running.add_done_callback(self._finished)
        return await asyncio.shield(self._running)

    def _finished(self, task: "asyncio.Task[BundleChange]") -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()):  # logged too: the client may have gone
            log.warning("the bundles being served stay as they were: %s", error)

    async def _change(self, name: str | None, path: str | None) -> BundleChange:
        started = time.monotonic()
        old = None if name is None else self._named(name)
        new = None if path is None else await self._loaded(path, replacing=old)
        self._registry.swap(old, new)
        switched = time.monotonic()
        added, removed = body_of(new) if new else None, body_of(old) if old else None
        log.info("%s added, %s removed", added.name if added else "nothing", removed.name if removed else "nothing")
        if old:
            await old.unused()
            self._forget(old)
            await in_daemon_thread(lambda: self._registry.release(old), name="release")
            del old
            await in_daemon_thread(_collect, name="release")
        return BundleChange(
            added=added,
            removed=removed,
            load_s=round(switched - started, 3),
            drain_s=round(time.monotonic() - switched, 3),
            bundles=[body_of(model) for model in self._registry.models],
        )

    def _named(self, name: str) -> LoadedModel:
        for model in self._registry.models:
            if model.name == name:
                return model
        names = ", ".join(model.name for model in self._registry.models) or "none"
        raise UnknownModel(f"no bundle is named {shown(name)}; those being served: {names}")

    async def _loaded(self, path: str, *, replacing: LoadedModel | None) -> LoadedModel:
        folder = allowed_folder(path, self._settings.bundle_roots)
        taken = [model.name for model in self._registry.models if model is not replacing]
        hint = (
            f". Until {replacing.name} has answered its last request both are held: where clients can wait, remove it"
            " first and add this one then"
            if replacing
            else ""
        )
        try:
            return await in_daemon_thread(lambda: self._load(folder, taken), name="load")
        except OverBudget as error:
            raise BundleRefused(f"{error}{hint}") from error
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
        on_gpu = self._settings.device.startswith("cuda") or any(model.bundle.gpu for model in self._registry.models)
        # A second process would take as much of the GPU again.
        probed = self._settings.warm_up != "none" and not on_gpu
        budget, peaks = self._registry.budget, None
        if probed:
            left = budget.limit_bytes - budget.total_bytes if budget.limit_bytes else None
            self._trials = []
            peaks = probe_bundle(folder, self._settings, memory_bytes=left, running=self._trials)
        bundle: Bundle = open_bundle(folder, self._settings)
        return self._registry.prepare(bundle, peaks)


def body_of(model: LoadedModel) -> BundleBody:
    """Name, family, version and folder of a model's bundle."""
    manifest = model.bundle.manifest
    return BundleBody(
        name=manifest.name, family=manifest.family, version=manifest.version, path=str(model.bundle.folder)
    )


def _collect() -> None:
    # Failed requests leave tracebacks in reference cycles, whose frames hold the bundle.
    freeze_objects()
    return_free_memory()


def allowed_folder(path: str, roots: Sequence[Path]) -> Path:
    """The folder that `path` names, links resolved; InvalidRequest unless it lies within one of `roots`.

    The error is the same for a folder outside them and for none, so that it reveals nothing of the disk.
    """
    for root in roots:
        with suppress(OSError, RuntimeError):  # too long a name, a loop of links
            folder = (root / path).resolve()
            if folder.is_relative_to(root) and folder.is_dir():
                return folder
    listed = ", ".join(map(str, roots))
    raise InvalidRequest([FieldFault("path", f"{shown(path, 200)} is no folder within bundle_roots ({listed})")])
