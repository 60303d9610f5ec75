"""Builds TensorRT engines from the graphs of a bundle and adds them to it; needs no PyTorch.

A graph with DeformConv, which TensorRT-RTX lacks, is read as its GridSample form.

TensorRT 10 and 11 and TensorRT-RTX are one API in two modules. Networks are strongly typed: the precision is written in
the graph (TensorRT 11 has no other way). TensorRT-RTX builds without a GPU, for a list of GPUs; TensorRT builds on the
GPU that will run the engine.
"""

import importlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from export import ExportError
from export.bundle_folder import additions, put
from export.progress import Progress
from export.tensorrt.profiles import Plan, Profile, profiles
from server.bundle import check_artefact
from server.contract.manifest import (
    Artefact,
    Engine,
    Manifest,
    Precision,
    read_manifest,
    sha256_of,
)
from server.runtimes.device import MODULES, PACKAGES, gpu_at

EngineRuntime = Literal["tensorrt", "tensorrt-rtx"]
PLANS: dict[EngineRuntime, Plan] = {"tensorrt": "buckets", "tensorrt-rtx": "one"}
# Default GPUs of TensorRT-RTX.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class EngineTarget:
    """Runtime and GPUs to build engines for; capabilities: None takes the runtime's default."""

    runtime: EngineRuntime
    capabilities: tuple[str, ...] | None = None
    timing_cache: Path | None = None
    plan: Plan | None = None

    @property
    def profile_plan(self) -> Plan:
        """Plan of the optimization profiles."""
        return self.plan or PLANS[self.runtime]


@dataclass(frozen=True)
class BuiltEngine:
    """Bytes of an engine, and the values of its record in the manifest."""

    data: bytes
    version: str
    capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]


@dataclass
class _Errors:
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(self.lines[-3:]) or "it gave no reason"


def add_engines(folder: Path, target: EngineTarget, *, precision: Precision = "fp32", progress: Progress) -> Manifest:
    """Build the engine of every part from its certified graph of this precision, and return the new manifest.

    An engine is marked "not run", without a certificate, until a machine with its GPU has measured it. A build that
    fails leaves the bundle as it was.
    """
    with additions(folder) as added:
        manifest = read_manifest(folder)
        graphs = [a for a in manifest.artefacts if a.engine is None and a.precision == precision and not a.uncertified]
        if lacking := {artefact.part for artefact in manifest.artefacts} - {graph.part for graph in graphs}:
            missing = ", ".join(sorted(lacking))
            raise ExportError(f"{folder} has no certified {precision} graph of {missing} to build from")
        engines = [_build(folder, manifest, graph, target, added, progress) for graph in graphs]
        kept = [old for old in manifest.artefacts if not any(_replaces(old, new) for new in engines)]
        return put(added, folder, manifest.model_copy(update={"artefacts": (*engines, *kept)}))


def _build(
    folder: Path, manifest: Manifest, graph: Artefact, target: EngineTarget, added: Path, progress: Progress
) -> Artefact:
    check_artefact(folder, graph)
    full = graph.precision == "fp32"
    with progress.stage(f"build {graph.part} with {target.runtime}"), tempfile.TemporaryDirectory() as scratch:
        built = build_engine(_readable(folder, graph, Path(scratch)), manifest, target, full=full, progress=progress)
    artefact = _store(added, graph, built, target)
    progress.say(f"  {artefact.file}: {len(built.data) / 2**20:.0f} MiB, {len(built.profiles)} profiles")
    return artefact


def _readable(folder: Path, graph: Artefact, scratch: Path) -> Path:
    """The file of the graph, or of its GridSample form in `scratch`."""
    if graph.lowering != "deform_conv":
        return folder / graph.file
    import onnx  # here: what only verifies engines does without

    from export.onnx.grid_sample import without_deform_conv

    onnx.save(without_deform_conv(onnx.load(str(folder / graph.file))), str(scratch / graph.file))
    return scratch / graph.file


def _store(added: Path, graph: Artefact, built: BuiltEngine, target: EngineTarget) -> Artefact:
    targets = [] if target.capabilities is None else [f"sm{c.replace('.', '')}" for c in target.capabilities]
    name = ".".join([graph.file.removesuffix(".onnx"), f"{target.runtime}-{built.version}", *targets, "engine"])
    new = added / name
    new.write_bytes(built.data)
    record = Engine(
        version=built.version,
        compute_capabilities=built.capabilities,
        source_sha256=graph.content_sha256,
        profiles=built.profiles,
    )
    changes = {
        "runtime": target.runtime,
        "lowering": "grid_sample" if graph.lowering == "deform_conv" else graph.lowering,
        "file": name,
        "sha256": sha256_of(new),
        "engine": record,
        "data": (),
        "certificate": None,
    }
    return Artefact.model_validate(graph.model_dump() | changes)


def _replaces(old: Artefact, new: Artefact) -> bool:
    """True for engines of the same runtime, part and precision, for the same GPUs."""
    if old.engine is None or new.engine is None or old.runtime != new.runtime:
        return False
    return (old.part, old.precision, old.engine.compute_capabilities) == (
        new.part,
        new.precision,
        new.engine.compute_capabilities,
    )


def build_engine(
    graph: Path, manifest: Manifest, target: EngineTarget, *, full: bool, progress: Progress
) -> BuiltEngine:
    """Build the engine of a graph of the bundle; `full`: compute float32 as such, not as TF32.

    ExportError names the node that cannot be parsed, or gives the builder's reason.
    """
    trt = load_module(target.runtime)
    capabilities = capabilities_of(trt, target)
    errors = _Errors()
    logger = _logger(trt, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"{target.runtime} {trt.__version__} cannot read {graph.name}: {_parse_faults(parser)}")
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, progress)
    if full and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if target.runtime == "tensorrt-rtx":
        _set_capabilities(trt, config, capabilities)
    ranges = _add_profiles(builder, network, config, manifest, target.profile_plan)
    cache = _load_timing_cache(config, target)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"{target.runtime} {trt.__version__} cannot build {graph.name}: {errors}")
    if cache is not None and target.timing_cache is not None:
        target.timing_cache.write_bytes(bytes(cache.serialize()))
    return BuiltEngine(bytes(engine), trt.__version__, capabilities, ranges)


def load_module(runtime: EngineRuntime) -> Any:
    """Import a TensorRT module; ExportError names the package to install."""
    try:
        return importlib.import_module(MODULES[runtime])
    except ImportError as error:
        raise ExportError(
            f"{runtime} cannot be used ({error}); install it with: pip install {PACKAGES[runtime]}"
        ) from None


def capabilities_of(trt: Any, target: EngineTarget) -> tuple[str, ...]:
    """Compute capabilities to build for; ExportError names an unsupported one."""
    if target.runtime == "tensorrt":
        if target.capabilities is not None:
            raise ExportError("tensorrt builds for the GPU it runs on: compute capabilities apply to tensorrt-rtx only")
        gpu = gpu_at(0)
        if gpu is None:
            raise ExportError(
                "tensorrt builds on the GPU that will run the engine, and this machine has none;"
                " tensorrt-rtx builds without one"
            )
        return (gpu[1],)
    if target.timing_cache is not None:
        raise ExportError("tensorrt-rtx cannot use a timing cache: it would need a GPU")
    known = [_capability(name) for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    wanted = target.capabilities or RTX_CAPABILITIES
    if unknown := [capability for capability in wanted if capability not in known]:
        raise ExportError(
            f"tensorrt-rtx {trt.__version__} does not build for compute capability {', '.join(unknown)};"
            f" supported are {', '.join(known)}"
        )
    return wanted


def _capability(name: str) -> str:
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _set_capabilities(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)


def _strongly_typed(trt: Any) -> int:
    """Creation flags of a strongly typed network; none where that is the only kind."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _add_profiles(builder: Any, network: Any, config: Any, manifest: Manifest, plan: Plan) -> tuple[Profile, ...]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    axes = {
        tensor.name: [tensor.get_dimension_name(axis) if size < 0 else size for axis, size in enumerate(tensor.shape)]
        for tensor in inputs
    }
    ranges = profiles(manifest, {size for sizes in axes.values() for size in sizes if isinstance(size, str)}, plan)
    for spans in ranges:
        profile = builder.create_optimization_profile()
        for name, sizes in axes.items():
            shapes = [[spans[size][place] if isinstance(size, str) else size for size in sizes] for place in range(3)]
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    return ranges


def _parse_faults(parser: Any) -> str:
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(
        f"node {fault.node_name() or '(unnamed)'} ({fault.node_operator() or 'no operator'}): {fault.desc()}"
        for fault in faults[:3]
    )


def _load_timing_cache(config: Any, target: EngineTarget) -> Any:
    """Load the timing cache that the builder uses and fills, or None."""
    if target.timing_cache is None:
        return None
    stored = target.timing_cache.read_bytes() if target.timing_cache.is_file() else b""
    cache = config.create_timing_cache(stored)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(f"{target.timing_cache} belongs to another TensorRT or GPU: remove it, or name another file")
    return cache


def _logger(trt: Any, errors: _Errors) -> Any:
    class Logger(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                errors.lines.append(message.strip())

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    """Build monitor that prints the running phase every `SECONDS_BETWEEN_LINES` seconds."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.said = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES:
                self.said = time.monotonic()
                progress.say(f"  {phase_name}: {step + 1} of {self.steps.get(phase_name, 0)}")
            return True

    return Monitor()
