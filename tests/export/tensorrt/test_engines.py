"""Engines built by the TensorRT-RTX that is installed; and by a stand-in for what only a GPU could do."""

import shutil
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from export import ExportError
from export.bundle import export_bundle
from export.certificate.verify import verify
from export.progress import Progress
from export.tensorrt import engines as to_tensorrt
from export.tensorrt.engines import EngineTarget, add_engines, build_engine, capabilities_of
from server.__main__ import main
from server.bundle import Bundle
from server.contract.manifest import LOWERINGS, read_manifest, sha256_of

QUIET = Progress(quiet=True)
RTX = EngineTarget("tensorrt-rtx", capabilities=("8.9",))


@pytest.fixture(scope="session")
def trt():
    return pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt-rtx-cu13")


@pytest.fixture(
    scope="module",
    params=[(model, lowering) for model in ("detector-tiny", "glip-tiny") for lowering in LOWERINGS],
    ids="-".join,
)
def tiny_bundle(trt, request, save_checkpoint, tmp_path_factory):
    """A detector of one layer, of each family in each lowering."""
    model, lowering = request.param
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(save_checkpoint(model), out, lowering=lowering)
    return out, lowering


@pytest.fixture
def clip_copy(trt, clip_bundle, tmp_path):
    return shutil.copytree(clip_bundle, tmp_path / "copy")


def graph_of(operator, domain=""):
    """A graph of one node."""
    node = helper.make_node(operator, ["pixel_values"], ["out"], name="the_node", domain=domain)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("pixel_values", "out")]
    graph = helper.make_graph([node], "graph", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_each_lowering_of_a_detector_become_engines(tiny_bundle):
    folder, lowering = tiny_bundle
    manifest = add_engines(folder, RTX, progress=QUIET)
    engines = {artefact.part: artefact for artefact in manifest.artefacts if artefact.engine}
    assert set(engines) == {"image_encoder", "text_encoder", "detector"}
    assert engines["detector"].lowering == ("gather" if lowering == "gather" else "grid_sample")
    assert engines["detector"].engine.profiles[0]["tokens"] == (1, 32, 256)
    graphs = {artefact.part: artefact for artefact in manifest.artefacts if not artefact.engine}
    for part, engine in engines.items():
        assert engine.engine.source_sha256 == graphs[part].sha256
        assert engine.engine.compute_capabilities == ("8.9",)
        assert sha256_of(folder / engine.file) == engine.sha256


def test_engine_that_was_not_run_is_noted_and_the_graph_serves(clip_copy):
    add_engines(clip_copy, RTX, progress=QUIET)
    bundle = Bundle(clip_copy)
    assert {artefact.runtime for artefact in bundle.artefacts.values()} == {"onnxruntime"}
    verdict = verify(clip_copy, QUIET)
    assert verdict.faults == ()
    assert len(verdict.notes) == 2
    assert all(".engine: " in note for note in verdict.notes)


def test_engine_built_again_takes_the_place_of_the_older(clip_copy):
    for _ in range(2):
        manifest = add_engines(clip_copy, RTX, progress=QUIET)
    assert len(manifest.artefacts) == 4
    named = {entry.file for entry in (manifest.tokenizer, manifest.reference, manifest.canary, *manifest.artefacts)}
    assert {path.name for path in clip_copy.iterdir()} == named | {"manifest.json"}


def test_engines_are_added_to_a_bundle_from_the_shell(clip_copy, capsys):
    assert main(["export", "--out", str(clip_copy), "--runtime", "tensorrt-rtx", "--compute-capability", "12.0"]) == 0
    assert "build image_encoder with tensorrt-rtx: " in capsys.readouterr().out
    engine = read_manifest(clip_copy).artefacts[0]
    assert (engine.runtime, engine.engine.compute_capabilities, engine.engine.status) == (
        "tensorrt-rtx",
        ("12.0",),
        "not run",
    )


def test_failed_build_leaves_the_bundle_as_it_was(clip_copy, monkeypatch):
    before = {path.name: path.read_bytes() for path in clip_copy.iterdir()}
    build = build_engine

    def fail_the_second(graph, *args, **options):
        if graph.name == "text_encoder.onnx":
            raise ExportError("no engine today")
        return build(graph, *args, **options)

    monkeypatch.setattr("export.tensorrt.engines.build_engine", fail_the_second)
    with pytest.raises(ExportError, match="no engine today"):
        add_engines(clip_copy, RTX, progress=QUIET)
    assert {path.name: path.read_bytes() for path in clip_copy.iterdir()} == before


@pytest.mark.parametrize(("operator", "domain"), [("Unique", ""), ("Mystery", "other")])
def test_node_that_cannot_be_parsed_is_named_with_its_operator(trt, clip_bundle, tmp_path, operator, domain):
    onnx.save(graph_of(operator, domain), str(tmp_path / "odd.onnx"))
    with pytest.raises(ExportError, match=rf"odd\.onnx: node the_node \({operator}\): \S+"):
        build_engine(tmp_path / "odd.onnx", read_manifest(clip_bundle), RTX, full=True, progress=QUIET)


def test_graph_that_is_none_is_refused(trt, clip_bundle, tmp_path):
    (tmp_path / "odd.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"cannot read odd\.onnx"):
        build_engine(tmp_path / "odd.onnx", read_manifest(clip_bundle), RTX, full=True, progress=QUIET)


def test_compute_capability_that_is_not_known_is_refused_with_those_that_are(trt):
    with pytest.raises(ExportError, match=r"for compute capability 3\.5; supported are .*8\.9"):
        capabilities_of(trt, EngineTarget("tensorrt-rtx", ("3.5",)))


def test_capabilities_are_written_out_where_none_is_named(trt):
    assert capabilities_of(trt, EngineTarget("tensorrt-rtx")) == ("8.0", "8.6", "8.9", "12.0")


def test_timing_cache_goes_with_tensorrt_alone(trt, tmp_path):
    with pytest.raises(ExportError, match="cannot use a timing cache"):
        capabilities_of(trt, EngineTarget("tensorrt-rtx", timing_cache=tmp_path / "cache"))


def test_missing_module_names_the_package(monkeypatch, clip_bundle, capsys):
    monkeypatch.setitem(to_tensorrt.MODULES, "tensorrt", "no_such_tensorrt")
    assert main(["export", "--out", str(clip_bundle), "--runtime", "tensorrt"]) == 2
    assert "pip install tensorrt\n" in capsys.readouterr().err


def test_export_with_nothing_to_do_is_refused(clip_bundle, capsys):
    assert main(["export", "--out", str(clip_bundle)]) == 2
    assert "nothing to do" in capsys.readouterr().err


def test_graphs_that_are_not_certified_are_not_built_from(clip_bundle):
    with pytest.raises(ExportError, match="no certified fp16 graph of image_encoder, text_encoder"):
        add_engines(clip_bundle, RTX, precision="fp16", progress=QUIET)


def test_tensorrt_needs_the_gpu_that_runs_the_engine(monkeypatch):
    monkeypatch.setattr(to_tensorrt, "gpu_at", lambda ordinal: None)
    with pytest.raises(ExportError, match="this machine has none"):
        capabilities_of(None, EngineTarget("tensorrt"))
    with pytest.raises(ExportError, match="builds for the GPU it runs on"):
        capabilities_of(None, EngineTarget("tensorrt", ("8.9",)))
    monkeypatch.setattr(to_tensorrt, "gpu_at", lambda ordinal: ("NVIDIA H100", "9.0"))
    assert capabilities_of(None, EngineTarget("tensorrt")) == ("9.0",)


def test_tensorrt_is_built_by_the_same_path_with_a_profile_for_each_bucket(trt, detector_bundle, monkeypatch):
    """TensorRT-RTX, whose API is the same, stands in for the module that only a GPU could build with."""
    monkeypatch.setitem(to_tensorrt.MODULES, "tensorrt", "tensorrt_rtx")
    monkeypatch.setattr(to_tensorrt, "gpu_at", lambda ordinal: ("NVIDIA H100", "9.0"))
    manifest = read_manifest(detector_bundle)
    graph = detector_bundle / "text_encoder.onnx"
    built = build_engine(graph, manifest, EngineTarget("tensorrt"), full=True, progress=QUIET)
    assert built.capabilities == ("9.0",)
    assert [profile["tokens"][2] for profile in built.profiles] == list(manifest.buckets.tokens)
    assert len(built.data) > 10_000


def test_network_is_strongly_typed_whether_or_not_there_is_another_kind():
    ten = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))
    later = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert (to_tensorrt._strongly_typed(ten), to_tensorrt._strongly_typed(later)) == (2, 0)


class CacheConfig:
    """A builder's configuration, as far as timing caches go."""

    def __init__(self, *, fits=True):
        self.fits, self.given = fits, None

    def create_timing_cache(self, data):
        self.given = data
        return SimpleNamespace(serialize=lambda: data + b"more")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        return self.fits


def test_timing_cache_is_read_where_there_is_one(tmp_path):
    target = EngineTarget("tensorrt", timing_cache=tmp_path / "cache")
    first = CacheConfig()
    assert to_tensorrt._load_timing_cache(first, target).serialize() == b"more"
    (tmp_path / "cache").write_bytes(b"old")
    second = CacheConfig()
    assert to_tensorrt._load_timing_cache(second, target).serialize() == b"oldmore"
    assert (first.given, second.given) == (b"", b"old")


def test_timing_cache_of_another_machine_is_refused(tmp_path):
    (tmp_path / "cache").write_bytes(b"old")
    with pytest.raises(ExportError, match="belongs to another TensorRT or GPU"):
        to_tensorrt._load_timing_cache(
            CacheConfig(fits=False), EngineTarget("tensorrt", timing_cache=tmp_path / "cache")
        )


def test_long_build_tells_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(to_tensorrt, "SECONDS_BETWEEN_LINES", 0)
    monitor = to_tensorrt._monitor(SimpleNamespace(IProgressMonitor=object), Progress())
    monitor.phase_start("Optimizing graph", None, 30)
    assert monitor.step_complete("Optimizing graph", 4)
    monitor.phase_finish("Optimizing graph")
    assert capsys.readouterr().out == "  Optimizing graph: 5 of 30\n"
