"""The manifest: read completely, or refused with the field that does not fit."""

import json
import math

import pytest

from server.contract.manifest import (
    BundleError,
    DetectionRules,
    Manifest,
    Preprocessing,
    TextRules,
    read_manifest,
    write_manifest,
)

HASH, OTHER_HASH = "0" * 64, "1" * 64

PHRASES = {"style": "phrases", "max_tokens": 16, "start_id": 1, "end_id": 2, "pad_id": 0, "separator_ids": [3]}
DETECTION = {"box_threshold": 0.3, "text_threshold": 0.2}


def manifest(**changes):
    data = {
        "name": "tiny",
        "family": "clip",
        "variant": "tiny",
        "licence": "Apache-2.0",
        "source": "trained here",
        "weights_sha256": HASH,
        "tokenizer": {"file": "tokenizer.json", "sha256": HASH},
        "reference": {"file": "reference.npz", "sha256": HASH},
        "canary": {"file": "canary.npz", "sha256": HASH},
        "preprocessing": {"resize": "shorter_crop", "shorter": 64, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "text": {"style": "sentence", "max_tokens": 16, "start_id": 1, "end_id": 2, "pad_id": 0},
        "classification": {"logit_scale": 100},
        "artefacts": [
            {"part": part, "opset": 17, "file": f"{part}.onnx", "sha256": HASH}
            for part in ("image_encoder", "text_encoder")
        ],
    }
    return data | changes


def test_written_manifest_reads_back_equal(tmp_path):
    written = Manifest.model_validate(manifest())
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written


def test_rules_that_a_manifest_does_not_name_are_what_they_always_were():
    text, detection = TextRules(**PHRASES), DetectionRules(**DETECTION)
    assert text.attention == "label"
    assert (detection.labels_per_box, detection.box_edges) == ("best", "continuous")


def test_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"no bundle: it has no manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "blue"}, "colour"),
        ({"family": "Not a name"}, "family"),
        ({"tokenizer": {"file": "../../etc/passwd", "sha256": HASH}}, "tokenizer.file"),
        ({"classification": None}, "exactly one of"),
        ({"detection": DETECTION}, "exactly one of"),
        ({"artefacts": manifest()["artefacts"][:1]}, "text_encoder"),
        ({"preprocessing": {"resize": "shorter_longer", "shorter": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "longer"),
        ({"preprocessing": manifest()["preprocessing"] | {"std": [1, 0, 1]}}, r"preprocessing\.std\.1"),
        ({"preprocessing": manifest()["preprocessing"] | {"mean": [math.nan, 0, 0]}}, r"preprocessing\.mean\.0"),
        ({"classification": manifest()["classification"] | {"logit_scale": 1e308}}, r"classification\.logit_scale"),
        ({"text": manifest()["text"] | {"style": "phrases"}}, "separator_ids"),
        ({"text": manifest()["text"] | {"attention": "prompt"}}, "accepted is style='phrases'"),
        ({"text": PHRASES | {"attention": "prompt", "max_label_tokens": 8}}, "max_label_tokens=8"),
        ({"detection": DETECTION | {"box_edges": "round"}}, "detection.box_edges"),
        ({"detection": DETECTION | {"labels_per_box": "some"}}, "detection.labels_per_box"),
        ({"schema_version": 1}, "openset export --checkpoint"),
        ({"artefacts": [artefact | {"file": "same.onnx"} for artefact in manifest()["artefacts"]]}, r"same\.onnx"),
        ({"artefacts": [artefact | {"runtime": "tensorrt"} for artefact in manifest()["artefacts"]]}, "engine"),
    ],
)
def test_manifest_that_does_not_fit_is_refused_by_field(tmp_path, change, named):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 2} | manifest(**change)))
    with pytest.raises(BundleError, match=named):
        read_manifest(tmp_path)


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)


def test_manifest_written_before_engines_were_known_is_read(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 2} | manifest()))
    artefact = read_manifest(tmp_path).artefacts[0]
    assert (artefact.runtime, artefact.precision, artefact.lowering, artefact.engine) == (
        "onnxruntime",
        "fp32",
        None,
        None,
    )


def test_part_may_have_a_graph_and_an_engine(tmp_path):
    record = {
        "version": "10.13.0",
        "compute_capabilities": ["8.9"],
        "source_sha256": HASH,
        "profiles": [{"batch": [1, 1, 8], "tokens": [1, 16, 77]}],
    }
    graphs = manifest()["artefacts"]
    engine = graphs[0] | {"runtime": "tensorrt", "file": "image_encoder.engine", "engine": record}
    written = Manifest.model_validate(manifest(artefacts=[*graphs, engine]))
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    assert written.artefacts[2].engine.status == "not run"


def graphs(*, data=None, **certificate):
    """Artefacts of a CLIP, each with its weights in a file of their own and a certificate."""
    given = {"passed": True, "artefact_sha256": HASH, "figures": {}, "tolerances": {}, "cases": [], "versions": {}}
    return [
        artefact
        | {
            "data": [{"file": f"{artefact['part']}.weights", "sha256": data or HASH}],
            "certificate": given | certificate,
        }
        for artefact in manifest()["artefacts"]
    ]


TEMPLATE = {"name": "clip", "sha256": HASH, "container": "openai"}


@pytest.mark.parametrize(
    ("artefacts", "certified", "fault"),
    [
        (graphs(data_sha256=HASH), "full", None),
        (graphs(of_template=True), "template", None),
        (graphs(data=OTHER_HASH, of_template=True), "template", None),
        (graphs(data=OTHER_HASH, data_sha256=HASH), "none", "for other weights"),
        (graphs(), "none", "for other weights"),
        (graphs(of_template=True, passed=False), "none", "failed"),
        (graphs(of_template=True, artefact_sha256=OTHER_HASH), "none", "for another file"),
        (manifest()["artefacts"], "none", "no certificate"),
    ],
)
def test_bundle_says_what_vouches_for_its_graphs(artefacts, certified, fault):
    found = Manifest.model_validate(manifest(artefacts=artefacts, template=TEMPLATE))
    assert found.certified == certified
    assert fault in (found.artefacts[0].uncertified or "") if fault else found.artefacts[0].uncertified is None


def test_only_a_filled_bundle_may_lack_reference_outputs():
    bare = {name: value for name, value in manifest().items() if name != "reference"}
    assert Manifest.model_validate(bare | {"template": TEMPLATE}).reference is None
    with pytest.raises(ValueError, match="only a bundle that was filled from a template"):
        Manifest.model_validate(bare)


def test_weights_have_a_file_of_their_own():
    shared = [artefact | {"data": [{"file": "weights", "sha256": HASH}]} for artefact in manifest()["artefacts"]]
    with pytest.raises(ValueError, match="several artefacts are in weights"):
        Manifest.model_validate(manifest(artefacts=shared))


def test_content_of_a_graph_follows_its_weights():
    one, same, other = (
        Manifest.model_validate(manifest(artefacts=graphs(data=data))).artefacts[0] for data in (HASH, HASH, OTHER_HASH)
    )
    assert one.content_sha256 == same.content_sha256 != other.content_sha256
    bare = Manifest.model_validate(manifest()).artefacts[0]
    assert bare.content_sha256 == bare.sha256


@pytest.mark.parametrize(
    ("asked", "sides"),
    [((None, None), (80, 133)), ((40, None), (40, 66)), ((None, 60), (80, 60)), ((40, 50), (40, 50))],
)
def test_other_sides_keep_the_bound_of_the_longer_in_proportion(asked, sides):
    own = Preprocessing(resize="shorter_longer", shorter=80, longer=133, mean=(0,) * 3, std=(1,) * 3)
    rules = own.reduced(*asked)
    assert (rules.shorter, rules.longer) == sides


def test_model_of_one_size_has_no_range_of_sizes():
    square = Preprocessing(resize="shorter_crop", shorter=32, mean=(0,) * 3, std=(1,) * 3)
    assert (square.shorter_range, square.longer_range) == ((32, 32), None)
    assert square.reduced(None) == square
