"""Weights of a bundle as a checkpoint to train on: those of its graphs, in the names of the model.

A graph keeps no names: the tracer folds, transposes and renames. So a model of the same sizes is traced with elements
that tell their own place, and each initializer of the stored graph, which has the same nodes, is put where the elements
of its counterpart came from. The canary then shows that the model computes what the bundle does.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from export import ExportError
from export.bundle_folder import CANARY_FILE, TOKENIZER_FILE
from export.certificate.reference import canary_outputs
from export.graph_spec import GraphSpec
from export.onnx.tracing import to_onnx
from models import config_io
from models.family import ServingRules
from models.registry import FAMILIES, LoadedCheckpoint
from server.contract.manifest import Artefact, Manifest, read_manifest

# Elements that float32 can number, as multiples of a power of two that keeps activations small.
MAX_ELEMENTS, UNIT = 2**24 - 1, 2.0**-26
TOLERANCE = 1e-2  # of an output's largest value: the runtime adds in another order
Arrays = dict[str, npt.NDArray[Any]]


def load_bundle(folder: Path) -> LoadedCheckpoint:
    """The model of a bundle with its weights as they are served, rounded and with norms folded into convolutions.

    ExportError where its sizes are unknown, where it was exported by another version, or where its weights are others.
    """
    manifest = read_manifest(folder)
    family = FAMILIES[manifest.family]
    tokenizer = folder / TOKENIZER_FILE
    if manifest.config is None:
        raise ExportError(f"the manifest of {manifest.name} has no config: export the bundle anew from its checkpoint")
    config = config_io.from_json(family.config, manifest.config)
    model = family.model(config).eval()
    if (count := sum(value.numel() for value in model.state_dict().values())) > MAX_ELEMENTS:
        raise ExportError(f"{folder} has {count / 1e6:.0f} M weights: start from the checkpoint it was made of")
    loaded = LoadedCheckpoint(
        family=manifest.family,
        variant=manifest.variant,
        container="bundle",
        model=model,
        config=config,
        licence=manifest.licence,
        source=f"{manifest.name} ({manifest.source})",
        weights_sha256=manifest.weights_sha256,
        tokenizer_file=tokenizer,
        serving=_serving(manifest),
    )
    _fill(loaded, manifest, folder)
    _check(family.graphs(loaded), folder)
    return loaded


def _serving(manifest: Manifest) -> dict[str, Any]:
    """The serving rules of the bundle; a CLIP's temperature is one of the weights."""
    names = [name for name in ServingRules.model_fields if name != "classification"]
    return {name: rules.model_dump(mode="json") for name in names if (rules := getattr(manifest, name)) is not None}


@torch.no_grad()
def _fill(loaded: LoadedCheckpoint, manifest: Manifest, folder: Path) -> None:
    state = loaded.model.state_dict()
    keys = [key for key, value in state.items() if value.is_floating_point()]
    ends = np.cumsum([state[key].numel() for key in keys])
    _fold_norms(loaded.model)
    weights = torch.cat([state[key].reshape(-1) for key in keys]).numpy()
    for key, end in zip(keys, ends, strict=True):
        if not _is_of_norm(loaded.model, key):
            size = state[key].numel()
            numbers = torch.arange(int(end) - size + 1, int(end) + 1, dtype=torch.float32)
            state[key].copy_((numbers * UNIT).reshape(state[key].shape))
    known = np.zeros(len(weights), np.bool_)
    specs = {spec.name: spec for spec in FAMILIES[loaded.family].graphs(loaded)}
    for artefact in manifest.artefacts:
        if artefact.engine is None and artefact.precision == "fp32":
            for numbered, stored in _counterparts(specs[artefact.part], artefact, folder):
                places = _places(numbered, len(weights))
                if places is not None:
                    weights[places] = stored.reshape(-1)
                    known[places] = True
    for key, end in zip(keys, ends, strict=True):
        part = slice(int(end) - state[key].numel(), int(end))
        if key == "logit_scale" and manifest.classification:
            weights[part] = np.log(manifest.classification.logit_scale)
        elif not known[part].any() and not _is_of_norm(loaded.model, key):  # serving may use some rows only
            raise ExportError(f"the graphs of {folder} hold no {key} of this size: start from its checkpoint")
        state[key].copy_(torch.from_numpy(weights[part]).reshape(state[key].shape))


def _counterparts(
    spec: GraphSpec, artefact: Artefact, folder: Path
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Pairs of an initializer of the model traced now, and of the stored graph, that the same node reads."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "traced.onnx"
        to_onnx(spec, file, opset=artefact.opset, lowering=artefact.lowering or "grid_sample")
        traced, ours = _graph(file)
    stored, theirs = _graph(folder / artefact.file)
    if [node.op_type for node in traced] != [node.op_type for node in stored]:
        raise ExportError(f"{folder / artefact.file} was exported by another version: start from its checkpoint")
    for node, other in zip(traced, stored, strict=True):
        for name, counterpart in zip(node.input, other.input, strict=True):
            if name in ours and counterpart in theirs and ours[name].shape == theirs[counterpart].shape:
                yield ours[name], theirs[counterpart]


def _graph(file: Path) -> tuple[list[onnx.NodeProto], Arrays]:
    """The nodes of a graph and its float constants, without the nodes that restore weights stored in fewer bits."""
    graph = onnx.load(str(file)).graph
    values: Arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.name.endswith("/Cast") and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]].astype(np.float32)
        elif node.op_type == "Mul" and node.name.endswith("/Scale") and {*node.input} <= values.keys():
            values[node.output[0]] = values[node.input[0]] * values[node.input[1]]
        else:
            nodes.append(node)
    return nodes, {name: value for name, value in values.items() if value.dtype == np.float32}


def _places(numbered: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64] | None:
    """The places that the elements of an initializer tell; None for a constant of the graph."""
    exact = numbered.reshape(-1).astype(np.float64) / UNIT
    places = np.rint(exact).astype(np.int64) - 1
    ours = len(places) and np.abs(exact - places - 1).max() < 0.25 and places.min() >= 0 and places.max() < count
    return places if ours else None


def _fold_norms(model: nn.Module) -> None:
    """Let each BatchNorm add its bias only, exactly: the tracer folds it into the convolution before it."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            variance = np.float32(1 - norm.eps)
            while variance + np.float32(norm.eps) < np.float32(1):
                variance = np.nextafter(variance, np.float32(2))
            norm.weight.fill_(1.0)
            norm.running_mean.zero_()
            norm.running_var.fill_(float(variance))


def _is_of_norm(model: nn.Module, key: str) -> bool:
    """True for what a folded BatchNorm no longer needs: all but its bias."""
    name, _, part = key.rpartition(".")
    return part != "bias" and isinstance(model.get_submodule(name), nn.BatchNorm2d)


def _check(specs: Sequence[GraphSpec], folder: Path) -> None:
    with np.load(folder / CANARY_FILE, allow_pickle=False) as arrays:
        wanted = dict(arrays)
    for name, value in canary_outputs(specs).items():
        if name not in wanted or value.shape != wanted[name].shape:
            raise ExportError(f"{folder} has another canary: it was exported by another version")
        if np.issubdtype(value.dtype, np.floating):
            error = np.abs(value - wanted[name]).max(initial=0.0)
            if not error <= TOLERANCE * np.abs(wanted[name]).max(initial=1e-6):
                raise ExportError(f"{folder}: the model read from its graphs puts out other {name}, by {error:g}")
