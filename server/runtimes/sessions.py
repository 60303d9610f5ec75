"""Opens an artefact in the runtime it was made for."""

from pathlib import Path

from server.contract.manifest import Artefact
from server.runtimes.base import Session
from server.runtimes.device import Device
from server.runtimes.ort import open_graph
from server.runtimes.trt import open_engine


def open_session(file: Path, artefact: Artefact, *, threads: int, device: Device) -> Session:
    """A session of a graph or an engine; BundleError where the device cannot run it."""
    if artefact.engine is not None:
        return open_engine(file, artefact, device)
    return open_graph(file, threads=threads, device=device)
