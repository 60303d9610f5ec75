"""Files that a graph reads weights from, wherever in it the tensor is."""

import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from server.bundle import Bundle, check_artefact
from server.contract.manifest import BundleError, FileHash, read_manifest, sha256_of, write_manifest
from server.registry.model_cache import BUNDLED
from server.runtimes.external_data import external_files
from tests.export.tampering import replace_graph


def outside(location, name="w"):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(nodes=(), initializers=(), sparse=()):
    return helper.make_graph(list(nodes), "g", [], [], list(initializers), sparse_initializer=list(sparse))


def constant(tensor):
    return helper.make_node("Constant", [], ["c"], value=tensor)


def branch(tensor):
    return helper.make_node("If", ["x"], ["y"], then_branch=graph_of([constant(tensor)]), else_branch=graph_of())


def in_function(tensor):
    model = helper.make_model(graph_of())
    model.functions.append(helper.make_function("d", "f", [], ["c"], [constant(tensor)], model.opset_import))
    return model


PLACES = {
    "initializer": lambda tensor: helper.make_model(graph_of(initializers=[tensor])),
    "constant": lambda tensor: helper.make_model(graph_of([constant(tensor)])),
    "branch": lambda tensor: helper.make_model(graph_of([branch(tensor)])),
    "function": in_function,
    "sparse": lambda tensor: helper.make_model(graph_of(sparse=[helper.make_sparse_tensor(tensor, tensor, [2])])),
}


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd", "a\nb", ""])
@pytest.mark.parametrize("place", PLACES)
def test_file_is_found_wherever_its_tensor_is(tmp_path, place, location):
    (tmp_path / "g.onnx").write_bytes(PLACES[place](outside(location)).SerializeToString())
    assert external_files(tmp_path / "g.onnx") == {location}


@pytest.mark.parametrize("name", ["clip-mini", "grounding-dino-mini", "glip-mini"])
def test_bundled_graphs_need_no_other_file(name):
    for graph in (BUNDLED / name).glob("*.onnx"):
        assert external_files(graph) == frozenset()


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "g.onnx"
    path.write_bytes(data)
    try:
        names = external_files(path)
    except BundleError as refusal:
        names = {str(refusal)}
    assert all(isinstance(name, str) for name in names)


@pytest.fixture
def outsourced(tmp_path):
    """A bundle whose text encoder has its largest weight in a file of its own, which no manifest names."""
    folder = shutil.copytree(BUNDLED / "clip-mini", tmp_path / "bundle")
    model = onnx.load(str(folder / "text_encoder.onnx"))
    onnx.save(model, str(tmp_path / "g.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=1000)
    shutil.move(tmp_path / "weights.bin", folder / "weights.bin")
    replace_graph(folder, tmp_path / "g.onnx", part="text_encoder")
    return folder


def name_the_weights(folder):
    manifest = read_manifest(folder)
    data = (FileHash(file="weights.bin", sha256=sha256_of(folder / "weights.bin")),)
    artefacts = {artefact.part: artefact for artefact in manifest.artefacts}
    encoder = artefacts["text_encoder"]
    certificate = encoder.certificate.model_copy(update={"data_sha256": data[0].sha256})
    artefacts["text_encoder"] = encoder.model_copy(update={"data": data, "certificate": certificate})
    write_manifest(folder, manifest.model_copy(update={"artefacts": tuple(artefacts.values())}))


def test_weights_without_a_hash_are_refused(outsourced):
    with pytest.raises(BundleError, match=r"reads weights from 'weights\.bin', for which its manifest has no hash"):
        Bundle(outsourced)


def test_weights_with_a_hash_are_served_until_a_bit_turns(outsourced):
    name_the_weights(outsourced)
    bundle = Bundle(outsourced)
    bundle.check_canary()
    assert bundle.embed_texts(["dog"]).dtype == np.float32
    data = bytearray((outsourced / "weights.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (outsourced / "weights.bin").write_bytes(data)
    encoder = next(a for a in read_manifest(outsourced).artefacts if a.part == "text_encoder")
    with pytest.raises(BundleError, match=r"weights\.bin is not the file its manifest names"):
        check_artefact(outsourced, encoder)
    (outsourced / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"lacks weights\.bin"):
        Bundle(outsourced)
