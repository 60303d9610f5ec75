"""Which artefact runs, by the records alone: no engine, no GPU, no file."""

import pytest

from server.contract.manifest import Artefact
from server.runtimes.artefact_selection import choose
from server.runtimes.device import Machine

GRAPH, ENGINE, OTHER = "a" * 64, "b" * 64, "c" * 64
RTX_4090 = Machine({"tensorrt-rtx": "1.7.1"}, gpu="RTX 4090", compute_capability="8.9")


def certificate(sha256, *, passed=True):
    return {
        "passed": passed, "artefact_sha256": sha256, "figures": {}, "tolerances": {}, "cases": [], "versions": {},
    }  # fmt: skip


def graph(**changes):
    data = {
        "part": "detector", "opset": 17, "file": "detector.onnx", "sha256": GRAPH, "certificate": certificate(GRAPH),
    }  # fmt: skip
    return Artefact.model_validate(data | changes)


def engine(*, runtime="tensorrt-rtx", proof="passed", **record):
    built = {
        "version": "1.7.1",
        "compute_capabilities": ["8.6", "8.9"],
        "source_sha256": GRAPH,
        "profiles": [{"batch": [1, 1, 4]}],
        "status": "not run" if proof == "not run" else "run",
    }
    return Artefact.model_validate(
        {
            "part": "detector",
            "runtime": runtime,
            "opset": 17,
            "file": "detector.engine",
            "sha256": ENGINE,
            "engine": built | record,
            "certificate": certificate(ENGINE, passed=proof == "passed") if proof in ("passed", "failed") else None,
        }
    )


def outcome(*artefacts, machine=RTX_4090, allow_uncertified=False, files=None):
    """The file that runs, and why others do not."""
    choice = choose(artefacts, machine, allow_uncertified=allow_uncertified, files=files)
    return choice.chosen["detector"].file if choice.chosen else None, choice.refused


def test_engine_that_fits_and_is_certified_comes_before_the_graph():
    assert outcome(graph(), engine()) == ("detector.engine", {})


def test_only_graph_runs_without_a_gpu_or_a_tensorrt():
    assert outcome(graph(), machine=Machine()) == ("detector.onnx", {})


@pytest.mark.parametrize(
    ("built", "machine", "reasons"),
    [
        (engine(), Machine(), ["tensorrt-rtx is not installed", "pip install 'tensorrt-rtx-cu13==1.7.1'"]),
        (engine(runtime="tensorrt"), RTX_4090, ["tensorrt is not installed", "pip install 'tensorrt==1.7.1'"]),
        (engine(), Machine(absent={"tensorrt-rtx": "libcudart is missing"}), ["libcudart is missing"]),
        (engine(version="1.6.0"), RTX_4090, ["built by tensorrt-rtx 1.6.0, 1.7.1 is installed", "--runtime"]),
        (engine(), Machine({"tensorrt-rtx": "1.7.1"}), ["no NVIDIA GPU"]),
        (engine(compute_capabilities=["12.0"]), RTX_4090, ["RTX 4090 has 8.9", "--compute-capability 8.9"]),
        (engine(source_sha256=OTHER), RTX_4090, ["the graph it was built from is not in the bundle", "--runtime"]),
        (engine(proof="not run"), RTX_4090, ["not run where it was built", "no certificate", "openset verify"]),
        (engine(proof="none"), RTX_4090, ["it has no certificate", "openset verify"]),
        (engine(proof="failed"), RTX_4090, ["its certificate says it failed", "--runtime"]),
    ],
)  # fmt: skip
def test_engine_that_does_not_fit_leaves_the_graph_and_says_what_to_do(built, machine, reasons):
    file, refused = outcome(built, graph(), machine=machine)
    assert file == "detector.onnx"
    assert all(reason in refused["detector.engine"] for reason in reasons)


def test_engine_is_rebuilt_in_its_own_precision():
    half = engine(version="1.6.0").model_copy(update={"precision": "mixed"})
    assert outcome(half, graph())[1]["detector.engine"].endswith("--runtime tensorrt-rtx --precision mixed")


def test_uncertified_engine_runs_only_where_that_is_allowed():
    assert outcome(graph(), engine(proof="not run"), allow_uncertified=True) == ("detector.engine", {})


def test_mismatch_is_refused_even_where_uncertified_is_allowed():
    file, refused = outcome(graph(), engine(version="1.6.0"), allow_uncertified=True)
    assert (file, list(refused)) == ("detector.onnx", ["detector.engine"])


def test_first_of_several_engines_that_fits_runs():
    other = engine(compute_capabilities=["12.0"]).model_copy(update={"file": "sm120.engine"})
    file, refused = outcome(other, engine(), graph())
    assert (file, list(refused)) == ("detector.engine", ["sm120.engine"])


def test_first_certified_graph_runs():
    half = graph(precision="mixed", file="half.onnx", sha256=OTHER, certificate=certificate(OTHER))
    assert outcome(graph(), half) == ("detector.onnx", {})
    failed = graph(certificate=certificate(GRAPH, passed=False))
    assert outcome(failed, half) == ("half.onnx", {"detector.onnx": "its certificate says it failed"})


def test_certificate_for_another_file_counts_for_nothing():
    file, refused = outcome(graph(certificate=certificate(OTHER)))
    assert file is None
    assert refused == {"detector.onnx": "its certificate is for another file"}


def test_files_named_are_the_only_ones_that_come_into_question():
    assert outcome(graph(), engine(), files={"detector.onnx"}) == ("detector.onnx", {})
    assert outcome(graph(), engine(), files={"detector.engine"}) == ("detector.engine", {})


def test_parts_are_chosen_one_by_one():
    text = graph(part="text_encoder", file="text_encoder.onnx", sha256=OTHER, certificate=certificate(OTHER))
    choice = choose([graph(), text, engine()], RTX_4090, allow_uncertified=False)
    assert {part: artefact.file for part, artefact in choice.chosen.items()} == {
        "detector": "detector.engine",
        "text_encoder": "text_encoder.onnx",
    }
