"""Opens artefacts in the runtime they were made for, of each part the first that can be."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.contract.manifest import Artefact, BundleError
from server.runtimes.artefact_selection import choose
from server.runtimes.base import Session
from server.runtimes.device import Device
from server.runtimes.gpu_detection import this_machine
from server.runtimes.ort import open_graph
from server.runtimes.trt import open_engine


@dataclass
class Opened:
    """artefacts: those that are open, with their sessions, by part; refused: why others that come before are not."""

    artefacts: dict[str, Artefact] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def open_parts(
    folder: Path,
    artefacts: Sequence[Artefact],
    *,
    device: Device,
    threads: int,
    allow_uncertified: bool,
    files: Collection[str] | None,
    check: Callable[[Artefact], None],
) -> Opened:
    """The first artefact of each part that is usable by its record, passes `check`, and can be opened.

    What fails to open although its record fits gives way to the next; a part that has none is left out. What `check`
    raises is passed on.
    """
    machine = this_machine({artefact.runtime for artefact in artefacts}, device)
    opened, broken = Opened(), dict[str, str]()
    while True:
        choice = choose(artefacts, machine, allow_uncertified=allow_uncertified, files=files, broken=broken)
        opened.refused = choice.refused
        left = {part: artefact for part, artefact in choice.chosen.items() if part not in opened.sessions}
        if not left:
            return opened
        for part, artefact in left.items():
            check(artefact)
            try:
                opened.sessions[part] = open_session(folder / artefact.file, artefact, threads=threads, device=device)
                opened.artefacts[part] = artefact
            except BundleError as error:
                broken[artefact.file] = str(error)


def open_session(file: Path, artefact: Artefact, *, threads: int, device: Device) -> Session:
    """A session of a graph or an engine; BundleError where the device cannot run it."""
    if artefact.engine is not None:
        return open_engine(file, artefact, device)
    return open_graph(file, threads=threads, device=device)
