"""The template's format: written and read back, damaged files refused, and those that ship complete and current."""

import io
import zipfile

import numpy as np
import pytest
import torch

from export import ExportError
from export.templates.make import CONFIGS
from export.templates.template import (
    ALIGNMENT,
    PUBLISHED,
    ContainerTable,
    Initializer,
    offsets_of,
    read_template,
    template_file,
    write_template,
)
from models.model_zoo import OFFICIAL
from models.registry import FAMILIES

OFFICIAL_NAMES = pytest.mark.parametrize("name", list(OFFICIAL))


def test_written_template_reads_back_equal(tiny_clip, tmp_path):
    stored = tiny_clip.stored
    write_template(tmp_path / "again.zip", stored.template, stored.graphs, stored.canary_inputs)
    again = read_template(tmp_path / "again.zip")
    assert (again.template, again.sha256, again.graphs) == (stored.template, stored.sha256, stored.graphs)
    assert (tmp_path / "again.zip").read_bytes() == tiny_clip.file.read_bytes()
    for name, array in stored.canary_inputs.items():
        np.testing.assert_array_equal(again.canary_inputs[name], array)


@pytest.mark.parametrize("name", ["image_encoder.onnx", "canary_inputs.npz", "template.json"])
def test_template_with_another_file_is_refused(tiny_clip, tmp_path, name):
    with zipfile.ZipFile(tiny_clip.file) as archive:
        content = {entry: archive.read(entry) for entry in archive.namelist()}
    content[name] = content[name][:-1] + bytes([content[name][-1] ^ 1])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for entry, data in content.items():
            archive.writestr(entry, data)
    with pytest.raises(ExportError, match="damaged or no template"):
        read_template(tmp_path / "x.zip")


@pytest.mark.parametrize("content", [b"", b"PK", b"hello"])
def test_file_that_is_no_template_is_refused(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ExportError, match="damaged or no template"):
        read_template(tmp_path / "x.zip")
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "x.zip").write_bytes(buffer.getvalue())
    with pytest.raises(ExportError, match="damaged or no template"):
        read_template(tmp_path / "x.zip")


def test_initializers_are_aligned_and_do_not_overlap():
    initializers = [Initializer(key=str(n), shape=(n,)) for n in (1, 0, 16, 17, 3)]
    offsets = offsets_of(initializers)
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    ends = [offset + initializer.nbytes for offset, initializer in zip(offsets, initializers, strict=True)]
    assert all(end <= offset for end, offset in zip(ends, offsets[1:], strict=False))
    assert offsets == [0, 64, 64, 128, 256]


@OFFICIAL_NAMES
def test_every_official_model_ships_with_a_certified_template(name):
    template = read_template(template_file(name)).template
    assert template.name == name
    for part in template.parts:
        assert part.artefact.uncertified is None
        assert part.artefact.certificate.of_template


@OFFICIAL_NAMES
def test_shipped_template_has_the_tables_and_shapes_of_today_s_model(name):
    official, template = OFFICIAL[name], read_template(template_file(name)).template
    family, config = FAMILIES[official.family], CONFIGS[official.family][official.variant]
    with torch.device("meta"):
        model = family.model(config)
    state = model.state_dict()
    assert {key: (tensor.shape, tensor.kind) for key, tensor in template.tensors.items()} == {
        key: (tuple(value.shape), "f" if value.is_floating_point() else "i") for key, value in state.items()
    }
    tables = family.weights.published_tables(config)
    assert template.containers == {name: ContainerTable.of(table) for name, table in tables.items()}
    assert {table.keys() == state.keys() for table in (each.sources for each in tables.values())} == {True}
    assert (template.family, template.vocabulary) == (family.name, family.vocabulary)


def test_shipped_templates_are_small():
    files = list(PUBLISHED.iterdir())
    assert {file.stem for file in files} == set(OFFICIAL)
    assert sum(file.stat().st_size for file in files) <= 4 * 2**20
