"""Export of a checkpoint to a bundle: files, manifest, replacement of an older bundle, failures."""

import pytest

from export import ExportError
from export import bundle as writing
from export.bundle import export_bundle
from models import CheckpointError
from server.bundle import Bundle
from server.contract.manifest import BundleError, read_manifest
from tests.export.tampering import with_changed_weight


def test_bundle_opens_in_the_server_and_answers(detector_bundle):
    bundle = Bundle(detector_bundle)
    assert bundle.tasks == {"detect"}
    bundle.check_canary()


def test_bundle_holds_what_its_manifest_names_and_no_more(detector_bundle):
    manifest = read_manifest(detector_bundle)
    named = {entry.file for entry in (manifest.tokenizer, manifest.reference, manifest.canary)}
    named |= {artefact.file for artefact in manifest.artefacts}
    assert {path.name for path in detector_bundle.iterdir()} == named | {"manifest.json"}


def test_manifest_tells_where_the_weights_come_from(clip_bundle):
    manifest = read_manifest(clip_bundle)
    assert (manifest.name, manifest.family, manifest.variant) == ("small-clip", "clip", "clip")
    assert manifest.licence == "unknown"
    assert len(manifest.weights_sha256) == 64


def test_serving_section_of_the_checkpoint_reaches_the_manifest(detector_bundle):
    manifest = read_manifest(detector_bundle)
    assert manifest.preprocessing.shorter == 128
    assert manifest.buckets.pixel_multiple == 32
    assert manifest.detection.box_threshold == 0.35


def test_size_of_a_detectors_images_is_chosen_at_export(save_checkpoint, tmp_path):
    manifest = export_bundle(save_checkpoint("detector"), tmp_path / "bundle", shorter=64)
    assert (manifest.preprocessing.shorter, manifest.preprocessing.longer) == (64, 104)
    assert manifest.certified == "full"


def test_model_of_one_size_is_not_exported_at_another(save_checkpoint, tmp_path):
    with pytest.raises(ExportError, match="this model takes squares of"):
        export_bundle(save_checkpoint("clip"), tmp_path / "bundle", longer=64)


@pytest.mark.parametrize(("sides", "asked"), [({"shorter": 5000}, "5000 x 8125"), ({"longer": 9000}, "128 x 9000")])
def test_size_beyond_all_bounds_is_refused_by_its_own_name(save_checkpoint, tmp_path, sides, asked):
    with pytest.raises(ExportError, match=rf"images of {asked} pixels .*at most 4096 x 8192"):
        export_bundle(save_checkpoint("detector"), tmp_path / "bundle", **sides)


def test_model_card_of_a_checkpoint_goes_with_the_bundle(save_checkpoint, tmp_path):
    checkpoint = save_checkpoint("clip")
    (checkpoint / "MODEL_CARD.md").write_text("# A CLIP of doors", encoding="utf-8")
    export_bundle(checkpoint, tmp_path / "bundle")
    assert Bundle(tmp_path / "bundle").card() == b"# A CLIP of doors"


def test_two_exports_of_one_checkpoint_are_the_same(save_checkpoint, tmp_path):
    checkpoint = save_checkpoint("clip")
    first, second = (export_bundle(checkpoint, tmp_path / name, name="same") for name in ("one", "two"))
    assert first == second


def test_older_bundle_is_replaced(save_checkpoint, tmp_path):
    checkpoint = save_checkpoint("clip")
    export_bundle(checkpoint, tmp_path / "out", version="1")
    export_bundle(checkpoint, tmp_path / "out", version="2")
    assert read_manifest(tmp_path / "out").version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_export_leaves_the_older_bundle_as_it_was(save_checkpoint, tmp_path, monkeypatch):
    checkpoint = save_checkpoint("clip")
    export_bundle(checkpoint, tmp_path / "out")

    def fail(*_args, **_options):
        raise ExportError("no graph today")

    monkeypatch.setattr(writing, "to_onnx", fail)
    with pytest.raises(ExportError, match="no graph today"):
        export_bundle(checkpoint, tmp_path / "out", version="2")
    assert read_manifest(tmp_path / "out").version == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_that_is_no_bundle_is_left_alone(save_checkpoint, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(ExportError, match="is no bundle"):
        export_bundle(save_checkpoint("clip"), tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_unreadable_checkpoint_leaves_nothing_behind(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        export_bundle(tmp_path / "weights.pth", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_bundle_that_fails_its_certificate_is_not_served(save_checkpoint, tmp_path, monkeypatch):
    to_onnx = writing.to_onnx

    def with_changed_text_encoder(spec, file, **options):
        lowering = to_onnx(spec, file, **options)
        if spec.name == "text_encoder":
            with_changed_weight(file, file)
        return lowering

    monkeypatch.setattr(writing, "to_onnx", with_changed_text_encoder)
    monkeypatch.setattr(Bundle, "check_canary", lambda self: None)  # it would find the change first
    manifest = export_bundle(save_checkpoint("clip"), tmp_path / "out")
    failed = {artefact.part: artefact.certificate for artefact in manifest.artefacts if not artefact.certificate.passed}
    assert failed["text_encoder"].figures["text_embeds.max_abs_error"] > 1e-4
    with pytest.raises(BundleError, match="failed"):
        Bundle(tmp_path / "out")
