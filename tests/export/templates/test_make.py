"""Templates as they are made: certified with other weights than they were traced with, and made again equal."""

import pytest

from export import ExportError
from export.progress import Progress
from export.templates import make
from export.templates.make import ModelSpec, make_template
from export.templates.template import read_template, template_file
from models.model_zoo import OFFICIAL

QUIET = Progress(quiet=True)


def test_template_made_again_is_equal(tiny_clip, tmp_path):
    make_template(tiny_clip.spec, tmp_path / "again.zip", certify=False, progress=QUIET)
    again, stored = read_template(tmp_path / "again.zip"), tiny_clip.stored
    assert again.graphs == stored.graphs
    parts = [
        part.model_copy(update={"artefact": part.artefact.model_copy(update={"certificate": None})})
        for part in stored.template.parts
    ]
    assert again.template == stored.template.model_copy(update={"parts": tuple(parts)})


def test_certificate_was_measured_at_sizes_not_traced(tiny_clip):
    for part in tiny_clip.stored.template.parts:
        given = part.artefact.certificate
        assert given.passed
        assert given.of_template
        assert given.data_sha256 is None
        assert any("tokens" in case for case in given.cases)
        assert "torch" in given.versions


def test_graph_that_keeps_a_traced_weight_falls_short(tiny_clip, tmp_path, monkeypatch):
    real = make.fill_parts

    def with_traced_weights(template, graphs, table, arrays, folder):
        traced = tiny_clip.spec.synthetic(make.TRACED_SEED).model.state_dict()
        key = "text_tower.norm.weight"
        return real(template, graphs, table, arrays | {key: traced[key].numpy()}, folder)

    monkeypatch.setattr(make, "fill_parts", with_traced_weights)
    with pytest.raises(ExportError, match=r"falls short: .*text_encoder: text_embeds"):
        make_template(tiny_clip.spec, tmp_path / "x.zip", progress=QUIET)
    assert not (tmp_path / "x.zip").exists()


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        make.main(["clip-vit-base"])
    assert "is no official model; known are clip-vit-base-patch32, " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OFFICIAL))
def test_shipped_template_is_what_is_made_today(name, tmp_path):
    make_template(ModelSpec.official(name), tmp_path / "again.zip", certify=False, progress=QUIET)
    again, shipped = read_template(tmp_path / "again.zip"), read_template(template_file(name))
    assert again.graphs == shipped.graphs
    assert again.template.rules == shipped.template.rules
    assert again.template.tensors == shipped.template.tensors
