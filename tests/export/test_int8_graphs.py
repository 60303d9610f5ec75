import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export import ExportError, int8_graphs
from export.certificate import parity
from export.certificate.verify import verify
from export.int8_graphs import add_int8
from export.progress import Progress
from server.__main__ import main
from server.bundle import Bundle
from server.contract.manifest import BundleError, read_manifest
from server.runtimes import loader

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module", autouse=True)
def faster():
    """Makes each part gain: what a small graph gains is within the noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_graphs, "speedups", lambda slow, fast: dict.fromkeys(slow.artefacts, 2.0))
        yield


@pytest.fixture
def clip_copy(clip_bundle, tmp_path):
    return shutil.copytree(clip_bundle, tmp_path / "copy")


@pytest.fixture(scope="module")
def in_int8(clip_bundle, tmp_path_factory):
    folder = shutil.copytree(clip_bundle, tmp_path_factory.mktemp("int8") / "small-clip")
    assert main(["export", "--out", str(folder), "--precision", "int8"]) == 0
    return folder


def precisions(folder):
    return {part: artefact.precision for part, artefact in Bundle(folder).artefacts.items()}


def test_int8_graphs_are_certified_verified_and_served(in_int8):
    assert precisions(in_int8) == {"image_encoder": "int8", "text_encoder": "int8"}
    Bundle(in_int8).check_canary()
    report = verify(in_int8, QUIET)
    assert report.faults == ()
    assert report.figures["image_encoder int8"]["image_embeds.max_abs_error"] > 1e-6, "the rounding is felt"
    manifest = read_manifest(in_int8)
    assert manifest.certified == "full"
    assert all(
        "float32 graphs" in a.certificate.versions["measured"] for a in manifest.artefacts if a.precision == "int8"
    )


def test_int8_is_taken_out_again_and_leaves_the_graphs_that_were(clip_bundle, in_int8, tmp_path, capsys):
    folder = shutil.copytree(in_int8, tmp_path / "small-clip")
    assert main(["verify", str(folder), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("verified; certified: full; int8 on CPUs: image_encoder, text_encoder\n")
    for _ in range(2):  # the second time there is none
        assert main(["export", "--out", str(folder), "--precision", "fp32", "--quiet"]) == 0
        assert capsys.readouterr().out == f"{folder}: small-clip, certified\n"
    assert read_manifest(folder).artefacts == read_manifest(clip_bundle).artefacts
    assert {file.name for file in folder.glob("*.onnx")} == {file.name for file in clip_bundle.glob("*.onnx")}
    assert verify(folder, QUIET).faults == ()


def test_bundle_keeps_its_int8_where_no_precision_is_named(in_int8, capsys):
    assert main(["export", "--out", str(in_int8)]) == 2
    assert "nothing to do" in capsys.readouterr().err
    assert read_manifest(in_int8).int8_parts == ("image_encoder", "text_encoder")


def test_float32_graphs_serve_where_graphs_run_on_a_gpu(in_int8, monkeypatch):
    monkeypatch.setattr(loader, "runs_on_gpu", lambda device: True)
    bundle = Bundle(in_int8)
    assert {artefact.precision for artefact in bundle.artefacts.values()} == {"fp32"}
    assert "for CPUs" in bundle.refused["image_encoder.int8.onnx"]
    bundle.check_canary()


def test_same_plan_and_graphs_come_out_each_time(clip_copy):
    first, second = (add_int8(clip_copy, progress=QUIET) for _ in range(2))
    assert first.artefacts == second.artefacts
    assert len(list(clip_copy.parent.iterdir())) == 1, "nothing is left beside it"


def test_canary_of_another_machine_is_found(in_int8, tmp_path):
    folder = shutil.copytree(in_int8, tmp_path / "copy")
    bundle = Bundle(folder)
    file = folder / bundle.manifest.canary.file
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["int8/image_encoder/out/image_embeds"] += 1
    np.savez(file, **arrays)
    with pytest.raises(BundleError, match="the canary of image_encoder differs"):
        bundle.check_canary()


def test_answers_that_int8_breaks_are_refused_with_the_figures(clip_copy, monkeypatch, capsys):
    before = read_manifest(clip_copy)
    monkeypatch.setitem(parity.INT8_LIMITS, "image_embeds.cosine", 1.1)
    monkeypatch.setitem(parity.INT8_LIMITS, "text_embeds.cosine", 1.1)
    assert main(["export", "--out", str(clip_copy), "--precision", "int8"]) == 2
    assert "int8 breaks the answers of small-clip: image_embeds.cosine is" in capsys.readouterr().err
    assert read_manifest(clip_copy) == before
    assert not list(clip_copy.glob("*int8*"))


def test_plan_leaves_out_what_breaks_the_answer(clip_copy, monkeypatch):
    """Where the image encoder may not differ at all, the text encoder alone is in int8."""
    monkeypatch.setitem(parity.INT8_LIMITS, "image_embeds.cosine", 1 - 1e-6)
    monkeypatch.setitem(parity.INT8_LIMITS, "class_scores.label_agreement", 0.5)  # random weights: classes are near
    add_int8(clip_copy, progress=QUIET)
    assert precisions(clip_copy) == {"image_encoder": "fp32", "text_encoder": "int8"}
    assert verify(clip_copy, QUIET).faults == ()


def test_rest_is_planned_anew_where_it_does_not_agree_without_a_part_that_gains_no_more(trials, monkeypatch):
    """Here c agrees only beside b."""
    gains = iter([2.0, 1.0, 2.0])
    monkeypatch.setattr(
        int8_graphs,
        "speedups",
        lambda slow, fast: {"image_encoder": next(gains), "text_encoder": 2.0, "detector": 2.0},
    )
    agrees = trials._faults
    trials._faults = lambda kept: (
        agrees(kept) or (["it breaks"] if ("detector", "c") in kept and ("image_encoder", "b") not in kept else [])
    )
    assert trials.plan() == [("text_encoder", "a")]


@pytest.fixture
def trials(monkeypatch):
    """Trials of four groups, of which one may not be in int8; those of earlier letters do less harm."""
    trials: Any = object.__new__(int8_graphs._Trials)
    trials.groups = [("image_encoder", "b"), ("detector", "breaking"), ("detector", "c"), ("text_encoder", "a")]
    trials.cases = ()
    trials.manifest, trials.progress = SimpleNamespace(name="small"), QUIET
    trials.tried = []
    monkeypatch.setattr(int8_graphs, "_harm", lambda group: ord(group[1][0]))

    def faults(kept):
        trials.tried.append([group for _, group in kept])
        return ["it breaks"] if ("detector", "breaking") in kept else []

    trials._weights, trials._figures, trials._faults = lambda group: 1, lambda groups, cases: groups[0], faults
    trials._bundle = lambda groups, threads: SimpleNamespace(artefacts=("image_encoder", "text_encoder", "detector"))
    return trials


def test_groups_are_tried_from_the_least_harm_on_and_kept_where_they_agree_together(trials):
    assert [group for _, group in trials.plan()] == ["b", "c", "a"]
    assert trials.tried[1:5] == [["a"], ["a", "b"], ["a", "b", "breaking"], ["a", "b", "c"]]


def test_part_that_gains_no_time_stays_float32(trials, monkeypatch):
    gains = {"image_encoder": 0.9, "text_encoder": 1.2, "detector": 1.04}
    monkeypatch.setattr(int8_graphs, "speedups", lambda slow, fast: gains)
    assert trials.plan() == [("text_encoder", "a")]
    gains["text_encoder"] = 1.0
    with pytest.raises(ExportError, match=r"int8 makes no part of small 1.05 times as fast .*text_encoder 1.00"):
        trials.plan()


def test_part_stays_float32_where_what_agrees_gains_no_time(trials, monkeypatch):
    rounds = iter(
        [
            dict.fromkeys(("image_encoder", "text_encoder", "detector"), 2.0),
            {"image_encoder": 1.0, "text_encoder": 1.0, "detector": 1.2},
        ]
    )
    monkeypatch.setattr(int8_graphs, "speedups", lambda slow, fast: next(rounds))
    assert trials.plan() == [("detector", "c")]


def test_engines_are_not_built_of_int8(clip_copy, capsys):
    assert main(["export", "--out", str(clip_copy), "--precision", "int8", "--runtime", "tensorrt-rtx"]) == 2
    assert "int8 is for CPUs" in capsys.readouterr().err
