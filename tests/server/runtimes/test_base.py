"""Every kind of session offers what the protocol promises, so that a bundle need not tell them apart."""

import numpy as np
import pytest

from server.contract.manifest import read_manifest
from server.registry.model_cache import BUNDLED
from server.runtimes.base import Session
from server.runtimes.device import AUTO, CPU
from server.runtimes.loader import load_parts
from tests.server.engine_bundles import with_engines
from tests.server.fake_provider import Provider

CLIP = BUNDLED / "clip-mini"
MEMBERS = [name for name in vars(Session) if not name.startswith("_")]


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime on a GPU", "tensorrt"])
def test_session_has_all_members_of_the_protocol(monkeypatch, binding, trt, tmp_path, runtime, images):
    if runtime == "onnxruntime on a GPU":
        Provider(monkeypatch, binding)
    folder = with_engines(CLIP, tmp_path / "clip") if runtime == "tensorrt" else CLIP
    loaded = load_parts(
        folder, read_manifest(folder).artefacts, device=CPU if runtime == "onnxruntime" else AUTO, threads=1,
        allow_uncertified=False, files=None, check=lambda artefact: None,
    )  # fmt: skip
    session = loaded.sessions["image_encoder"]
    assert {name for name in MEMBERS if not hasattr(session, name)} == set()
    assert session.inputs == ("pixel_values",)
    assert (session.gpu is None) is (runtime == "onnxruntime")
    assert (session.activation_bytes > 0) is (runtime == "tensorrt")
    (embeds,) = session.run({"pixel_values": np.stack(images(2)), "other": np.zeros(1)}).values()
    assert embeds.shape[0] == 2
