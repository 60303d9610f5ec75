"""Artefact selection: of each part the first that fits this machine, TensorRT engines before ONNX graphs.

The records in the manifest decide, before any file is opened: loading an engine for another GPU or another version ends
in an obscure error (NVIDIA/TensorRT issues 2176 and 3069).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from server.contract.manifest import Artefact
from server.runtimes.device import PACKAGES, Machine

# The CUDA provider has no kernels of it: products would be computed on the CPU, everything else on the GPU.
_INT8_ON_GPU = "int8 graphs are for CPUs, and graphs run on the GPU here"


@dataclass(frozen=True)
class Choice:
    """Selected artefacts by part, and the reasons against those that would come before them, by file."""

    chosen: dict[str, Artefact]
    refused: dict[str, str]


def choose(
    artefacts: Sequence[Artefact],
    machine: Machine,
    *,
    allow_uncertified: bool,
    graphs_on_gpu: bool = False,
    files: Collection[str] | None = None,
    broken: Mapping[str, str] | None = None,
) -> Choice:
    """Select the first usable artefact of each part: engines first, then graphs, each in the order of the manifest.

    artefacts: all of a manifest; graphs_on_gpu: a GPU runs graphs, so that none in int8 is selected; files: the only
    ones to consider, None for all; broken: those that could not be opened here, with the reason.
    """
    graphs = {artefact.content_sha256 for artefact in artefacts if artefact.engine is None}
    choice = Choice({}, {})
    for artefact in sorted(artefacts, key=lambda artefact: artefact.engine is None):
        if artefact.part in choice.chosen or (files is not None and artefact.file not in files):
            continue
        reason = mismatch(artefact, machine, graphs) or (None if allow_uncertified else uncertified_reason(artefact))
        reason = reason or (_INT8_ON_GPU if graphs_on_gpu and artefact.precision == "int8" else None)
        reason = reason or (broken or {}).get(artefact.file)
        if reason is None:
            choice.chosen[artefact.part] = artefact
        else:
            choice.refused[artefact.file] = reason
    return choice


def mismatch(artefact: Artefact, machine: Machine, graphs: set[str]) -> str | None:
    """Reason why this machine cannot run an engine, and what to do; None where it can, and for a graph.

    graphs: SHA-256 of the graphs of the bundle.
    """
    engine, runtime = artefact.engine, artefact.runtime
    if engine is None:
        return None
    if engine.source_sha256 not in graphs:
        return f"the graph it was built from is not in the bundle; {_rebuild(artefact)}"
    if runtime not in machine.versions:
        install = f"{runtime} is not installed; install it with: pip install '{PACKAGES[runtime]}=={engine.version}'"
        return machine.absent.get(runtime, install)
    if machine.versions[runtime] != engine.version:
        installed = machine.versions[runtime]
        return f"it was built by {runtime} {engine.version}, {installed} is installed; {_rebuild(artefact)}"
    if machine.compute_capability is None:
        return "the driver shows no NVIDIA GPU on this machine"
    if machine.compute_capability not in engine.compute_capabilities:
        return (
            f"it was built for compute capability {', '.join(engine.compute_capabilities)}, {machine.gpu} has"
            f" {machine.compute_capability}; {_rebuild(artefact, machine.compute_capability)}"
        )
    return None


def uncertified_reason(artefact: Artefact) -> str | None:
    """Reason why an artefact is not trusted, and what to do; None where it is certified."""
    fault = artefact.uncertified
    if fault is None or artefact.engine is None:
        return fault
    certify = "certify it on this machine with: openset verify BUNDLE"
    return f"{fault}; {certify if artefact.certificate is None else _rebuild(artefact)}"


def _rebuild(artefact: Artefact, compute_capability: str | None = None) -> str:
    """Advice to build an engine that fits this machine, or, with TensorRT-RTX, a given compute capability."""
    options = [f"--runtime {artefact.runtime}"]
    if artefact.precision != "fp32":
        options.append(f"--precision {artefact.precision}")
    if compute_capability and artefact.runtime == "tensorrt-rtx":
        options.append(f"--compute-capability {compute_capability}")
    return f"build it again with: openset export --out BUNDLE {' '.join(options)}"
