"""Builds a TensorRT engine from an ONNX graph, with TensorRT 10 and 11 or TensorRT-RTX: one API in two modules.

Networks are strongly typed: the precision is written in the graph (TensorRT 11 has no other way). TensorRT-RTX builds
without a GPU, for the GPUs it is told; TensorRT builds on the GPU that is going to run the engine.
"""

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.errors import ExportError
from export.progress import Progress
from export.tensorrt.profiles import Plan, Profile, profiles
from server.contract.manifest import Manifest
from server.runtimes.device import MODULES, PACKAGES, gpu_at

EngineRuntime = Literal["tensorrt", "tensorrt-rtx"]
PLANS: dict[EngineRuntime, Plan] = {"tensorrt": "buckets", "tensorrt-rtx": "one"}
# What TensorRT-RTX builds for if it is not told.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Target:
    """What engines are built with and for; capabilities: None takes the runtime's own."""

    runtime: EngineRuntime
    capabilities: tuple[str, ...] | None = None
    timing_cache: Path | None = None
    plan: Plan | None = None

    @property
    def profile_plan(self) -> Plan:
        """The plan of its profiles."""
        return self.plan or PLANS[self.runtime]


@dataclass(frozen=True)
class Built:
    """An engine's bytes, with what its record says."""

    data: bytes
    version: str
    capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]


@dataclass
class _Errors:
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(self.lines[-3:]) or "it gave no reason"


def build_engine(graph: Path, manifest: Manifest, target: Target, *, full: bool, progress: Progress) -> Built:
    """The engine of a graph of the bundle; `full`: float32 is to be that, not TF32.

    ExportError names the node that cannot be parsed, or tells why nothing was built.
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
    return Built(bytes(engine), trt.__version__, capabilities, ranges)


def load_module(runtime: EngineRuntime) -> Any:
    """The module of a TensorRT; ExportError says what to install."""
    try:
        return importlib.import_module(MODULES[runtime])
    except ImportError as error:
        raise ExportError(
            f"{runtime} cannot be used ({error}); install it with: pip install {PACKAGES[runtime]}"
        ) from None


def capabilities_of(trt: Any, target: Target) -> tuple[str, ...]:
    """The compute capabilities to build for; ExportError for one that cannot be built for."""
    if target.runtime == "tensorrt":
        if target.capabilities is not None:
            raise ExportError("tensorrt builds for the GPU it runs on: a compute capability goes with tensorrt-rtx")
        gpu = gpu_at(0)
        if gpu is None:
            raise ExportError(
                "tensorrt builds on the GPU that is to run the engine, and this machine shows none;"
                " tensorrt-rtx builds without one"
            )
        return (gpu[1],)
    if target.timing_cache is not None:
        raise ExportError("tensorrt-rtx has no use for a timing cache, and would need a GPU for it")
    known = [_capability(name) for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    wanted = target.capabilities or RTX_CAPABILITIES
    if unknown := [capability for capability in wanted if capability not in known]:
        raise ExportError(
            f"tensorrt-rtx {trt.__version__} does not build for compute capability {', '.join(unknown)};"
            f" it does for {', '.join(known)}"
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
    """The flags of a strongly typed network; none where there is no other kind."""
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


def _load_timing_cache(config: Any, target: Target) -> Any:
    """The cache the builder is going to use and fill, or None."""
    if target.timing_cache is None:
        return None
    stored = target.timing_cache.read_bytes() if target.timing_cache.is_file() else b""
    cache = config.create_timing_cache(stored)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(f"{target.timing_cache} is of another TensorRT or GPU: remove it, or name another file")
    return cache


def _logger(trt: Any, errors: _Errors) -> Any:
    class Logger(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                errors.lines.append(message.strip())

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    """Says a line now and then: the phase that is running, and how far it is."""

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
