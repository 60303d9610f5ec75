"""The published sizes, with synthetic weights in the published containers."""

import pytest

from export.bundle import export_bundle
from export.progress import Progress
from export.verify import verify
from tests.parity import containers, golden

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("inventory", "write"),
    [
        ("openai_clip_ViT-B-32", containers.write_openai_archive),
        ("openai_clip_RN50", containers.write_state_dict),
        ("groundingdino_SwinT_OGC", containers.write_data_parallel),
        ("glip_T", containers.write_data_parallel),
    ],
)
def test_published_size_is_exported_certified_and_verified(inventory, write, tmp_path):
    checkpoint = write(tmp_path / "weights.pt", golden.synthesise(inventory))
    manifest = export_bundle(checkpoint, tmp_path / "bundle")
    assert all(artefact.certificate.passed for artefact in manifest.artefacts)
    assert verify(tmp_path / "bundle", Progress(quiet=True)).faults == ()
