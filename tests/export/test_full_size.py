"""The published sizes, with synthetic weights in the published containers."""

import pytest

from export.bundle import export_bundle
from export.certificate.verify import verify
from export.progress import Progress
from export.reduced_graphs import add_precision
from export.tensorrt.engines import EngineTarget, add_engines
from server.contract.manifest import read_manifest
from tests.parity import containers, golden

pytestmark = pytest.mark.slow
QUIET = Progress(quiet=True)


@pytest.fixture(
    scope="module",
    params=[
        ("openai_clip_ViT-B-32", containers.write_openai_archive),
        ("openai_clip_RN50", containers.write_state_dict),
        ("groundingdino_SwinT_OGC", containers.write_data_parallel),
        ("glip_T", containers.write_data_parallel),
    ],
    ids=lambda published: published[0],
)
def bundle(request, tmp_path_factory):
    inventory, write = request.param
    folder = tmp_path_factory.mktemp("published")
    export_bundle(write(folder / "weights.pt", golden.synthesise(inventory)), folder / "bundle")
    return folder / "bundle"


def test_published_size_is_certified_and_verified(bundle):
    assert all(artefact.certificate.passed for artefact in read_manifest(bundle).artefacts)
    assert verify(bundle, QUIET).faults == ()


def test_published_size_becomes_engines(bundle):
    pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt-rtx-cu13")
    parts = {artefact.part for artefact in read_manifest(bundle).artefacts}
    manifest = add_engines(bundle, EngineTarget("tensorrt-rtx", ("8.9",)), progress=QUIET)
    assert {artefact.part for artefact in manifest.artefacts if artefact.engine} == parts


def test_published_clip_is_certified_in_mixed_precision(bundle):
    if read_manifest(bundle).family != "clip":
        pytest.skip("at random weights a detector's queries swap ranks at the least rounding")
    added = [a for a in add_precision(bundle, "mixed", progress=QUIET).artefacts if a.precision == "mixed"]
    assert all(artefact.certificate.passed for artefact in added)
