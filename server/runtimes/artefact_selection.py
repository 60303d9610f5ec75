"""Which artefact of a part is run: the first that fits this machine, TensorRT's engines before ONNX graphs.

Decided by the records of the manifest alone, before any file is opened: an engine for another GPU or another version
ends in an obscure error where it is loaded (NVIDIA/TensorRT issues 2176 and 3069).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from server.contract.manifest import Artefact, Runtime

PACKAGES: Mapping[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}
MODULES: dict[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class Machine:
    """What there is to run engines with.

    versions: of each TensorRT that is installed and that this server can run; absent: why one of them is not there,
    where more is known than that; gpu, compute_capability: such as "NVIDIA RTX 4090" and "8.9", None without a GPU.
    """

    versions: Mapping[Runtime, str] = field(default_factory=dict)
    absent: Mapping[Runtime, str] = field(default_factory=dict)
    gpu: str | None = None
    compute_capability: str | None = None


@dataclass(frozen=True)
class Choice:
    """chosen: the artefact that runs, by part; refused: why one that comes before it does not, by file."""

    chosen: dict[str, Artefact]
    refused: dict[str, str]


def choose(
    artefacts: Sequence[Artefact],
    machine: Machine,
    *,
    allow_uncertified: bool,
    files: Collection[str] | None = None,
    broken: Mapping[str, str] | None = None,
) -> Choice:
    """The first usable artefact of each part: engines first, then graphs, each in the manifest's order.

    artefacts: all of a manifest; files: those that come into question, if not all; broken: those that could not be
    opened here, with the reason.
    """
    graphs = {artefact.sha256 for artefact in artefacts if artefact.engine is None}
    choice = Choice({}, {})
    for artefact in sorted(artefacts, key=lambda artefact: artefact.engine is None):
        if artefact.part in choice.chosen or (files is not None and artefact.file not in files):
            continue
        reason = misfit(artefact, machine, graphs) or (None if allow_uncertified else unproven(artefact))
        reason = reason or (broken or {}).get(artefact.file)
        if reason is None:
            choice.chosen[artefact.part] = artefact
        else:
            choice.refused[artefact.file] = reason
    return choice


def misfit(artefact: Artefact, machine: Machine, graphs: set[str]) -> str | None:
    """Why this machine cannot run an engine, and what to do; None where it can, and for a graph.

    graphs: the SHA-256 of the bundle's graphs.
    """
    engine, runtime = artefact.engine, artefact.runtime
    if engine is None:
        return None
    if engine.source_sha256 not in graphs:
        return f"the graph it was built from is not in the bundle; {rebuild(artefact)}"
    if runtime not in machine.versions:
        install = f"{runtime} is not installed; install it with: pip install '{PACKAGES[runtime]}=={engine.version}'"
        return machine.absent.get(runtime, install)
    if machine.versions[runtime] != engine.version:
        return (
            f"it was built by {runtime} {engine.version}, {machine.versions[runtime]} is installed; {rebuild(artefact)}"
        )
    if machine.compute_capability is None:
        return "this machine has no NVIDIA GPU that its driver shows"
    if machine.compute_capability not in engine.compute_capabilities:
        return (
            f"it was built for compute capability {', '.join(engine.compute_capabilities)}, {machine.gpu} has"
            f" {machine.compute_capability}; {rebuild(artefact, machine.compute_capability)}"
        )
    return None


def unproven(artefact: Artefact) -> str | None:
    """Why an artefact is not trusted, and what to do; None where it is certified."""
    fault = artefact.uncertified
    if fault is None or artefact.engine is None:
        return fault
    certify = "certify it on this machine with: openset verify BUNDLE"
    return f"{fault}; {certify if artefact.certificate is None else rebuild(artefact)}"


def rebuild(artefact: Artefact, compute_capability: str | None = None) -> str:
    """What makes an engine that fits the machine it is called on, or the GPU that TensorRT-RTX is told."""
    options = [f"--runtime {artefact.runtime}"]
    if artefact.precision != "fp32":
        options.append(f"--precision {artefact.precision}")
    if compute_capability and artefact.runtime == "tensorrt-rtx":
        options.append(f"--compute-capability {compute_capability}")
    return f"build it again with: openset export --out BUNDLE {' '.join(options)}"
