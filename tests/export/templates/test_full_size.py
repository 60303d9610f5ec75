"""Every official model at its full size: a filled bundle gives the answers of the exported one, in every container."""

import pytest

from export.bundle import export_bundle
from export.certificate.parity import measure, shortfalls
from export.certificate.parity_cases import unpack_cases
from export.templates.fill import fill_bundle
from export.templates.make import ModelSpec
from export.templates.template import read_template, template_file
from models.model_zoo import OFFICIAL
from server.bundle import Bundle
from server.contract.arrays import read_arrays
from server.contract.manifest import read_manifest
from tests.models.published_tensors import published_containers, write_published

pytestmark = pytest.mark.slow
PUBLISHED = [
    (name, container)
    for name in OFFICIAL
    for container in published_containers(ModelSpec.official(name).family, ModelSpec.official(name).config)
]


@pytest.mark.parametrize(("name", "container"), PUBLISHED)
def test_filled_bundle_meets_the_exported_one_s_reference(name, container, tmp_path):
    checkpoint = write_published(ModelSpec.official(name).synthetic(seed=3), container, tmp_path)
    exported = export_bundle(checkpoint, tmp_path / "exported", name=name)
    filled = fill_bundle(read_template(template_file(name)), checkpoint, tmp_path / "filled", licence="MIT")
    sections = ("preprocessing", "text", "detection", "buckets", "weights_sha256", "family")
    assert [getattr(filled, section) for section in sections] == [getattr(exported, section) for section in sections]
    arrays = read_arrays(tmp_path / "exported" / exported.reference.file)
    figures = measure(Bundle(tmp_path / "filled"), unpack_cases(arrays), arrays)
    assert {part: shortfalls(table) for part, table in figures.items()} == {part: [] for part in figures}
    certified = {artefact.part: artefact.certificate for artefact in read_manifest(tmp_path / "exported").artefacts}
    for part, table in figures.items():
        for figure in ("image_embeds.max_abs_error", "text_features.max_abs_error", "boxes.mean_abs_error"):
            if figure in table:
                assert table[figure] == pytest.approx(certified[part].figures[figure], rel=0.5, abs=1e-6)
