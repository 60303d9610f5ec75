"""Copies of the bundled models with engines of the stand-in beside their graphs."""

import shutil

from server.contract.manifest import Artefact, read_manifest, sha256_of, write_manifest

from .fake_trt import write_engine

# One for each token bucket of the small detector, as TensorRT is built; batches go up to its `max_batch`.
PROFILES = [
    {"batch": [1, 1, 8], "height": [32, 288, 512], "width": [32, 480, 512], "tokens": [1, 16, 16]},
    {"batch": [1, 1, 8], "height": [32, 288, 512], "width": [32, 480, 512], "tokens": [17, 32, 256]},
]
# Their axes on the levels of the small detectors.
LEVELS = {
    f"{axis}_{stride}": [-(-size // stride) for size in PROFILES[0][axis]]
    for axis in ("height", "width")
    for stride in (8, 16, 32, 64, 128)
}
TEXTS = [{"batch": [1, 1, 64], "tokens": [1, 16, 256]}]


def with_engines(source, folder, *, runtime="tensorrt", version="10.14.1", certified=True, parts=None, **options):
    """A copy of a bundle in `folder` with engines of `parts`, all of them unless told; `options` go to the files."""
    shutil.copytree(source, folder)
    manifest = read_manifest(folder)
    engines = []
    for graph in manifest.artefacts:
        if parts is not None and graph.part not in parts:
            continue
        file = f"{graph.part}.{runtime}.engine"
        profiles = TEXTS if graph.part == "text_encoder" else [profile | LEVELS for profile in PROFILES]
        write_engine(folder / file, folder / graph.file, profiles, **options)
        engines.append(_record(folder / file, graph, profiles, runtime, version, certified))
    write_manifest(folder, manifest.model_copy(update={"artefacts": (*manifest.artefacts, *engines)}))
    return folder


def _record(file, graph, profiles, runtime, version, certified):
    sha256 = sha256_of(file)
    certificate = graph.certificate.model_copy(update={"artefact_sha256": sha256}) if certified else None
    engine = {
        "version": version,
        "compute_capabilities": ["8.9"],
        "source_sha256": graph.sha256,
        "profiles": profiles,
        "status": "run" if certified else "not run",
    }
    changes = {
        "runtime": runtime, "file": file.name, "sha256": sha256, "engine": engine,
        "certificate": certificate and certificate.model_dump(),
    }  # fmt: skip
    return Artefact.model_validate(graph.model_dump() | changes)
