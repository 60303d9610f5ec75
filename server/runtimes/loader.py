"""Loading of artefacts: of each part, the first that its runtime can open on this machine."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.contract.manifest import Artefact, BundleError
from server.runtimes.artefact_selection import choose
from server.runtimes.base import Session
from server.runtimes.device import Device, this_machine
from server.runtimes.ort import open_graph, runs_on_gpu
from server.runtimes.trt import open_engine


@dataclass
class LoadedParts:
    """Open artefacts and their sessions by part, and the reasons against those that come before them, by file."""

    artefacts: dict[str, Artefact] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def load_parts(
    folder: Path,
    artefacts: Sequence[Artefact],
    *,
    device: Device,
    threads: int,
    allow_uncertified: bool,
    files: Collection[str] | None,
    check: Callable[[Artefact], None],
) -> LoadedParts:
    """Open the first artefact of each part that is usable by its record, passes `check`, and can be opened.

    An artefact that fails to open although its record fits gives way to the next; a part without any is left out.
    Errors that `check` raises are passed on.
    """
    machine = this_machine({artefact.runtime for artefact in artefacts}, device)
    loaded = LoadedParts()
    on_gpu, broken = runs_on_gpu(device), dict[str, str]()
    while True:
        choice = choose(
            artefacts, machine, allow_uncertified=allow_uncertified, graphs_on_gpu=on_gpu, files=files, broken=broken
        )
        loaded.refused = choice.refused
        left = {part: artefact for part, artefact in choice.chosen.items() if part not in loaded.sessions}
        if not left:
            return loaded
        for part, artefact in left.items():
            check(artefact)
            file = folder / artefact.file
            try:
                if artefact.engine is not None:
                    loaded.sessions[part] = open_engine(file, artefact, device)
                else:
                    loaded.sessions[part] = open_graph(file, threads=threads, device=device)
                loaded.artefacts[part] = artefact
            except BundleError as error:
                broken[artefact.file] = str(error)
