"""An image encoder that runs as an engine of the stand-in, and the answers of its graph."""

import numpy as np
import pytest

from server.bundle import Bundle
from server.registry.model_cache import BUNDLED
from server.runtimes.device import AUTO
from tests.server.engine_bundles import with_engines
from tests.server.fake_trt import install_trt

CLIP = BUNDLED / "clip-mini"


@pytest.fixture
def trt(monkeypatch, binding):
    return install_trt(monkeypatch, binding)


@pytest.fixture
def encoder(trt, tmp_path):
    return Bundle(with_engines(CLIP, tmp_path / "clip", parts=["image_encoder"]), device=AUTO, threads=1)


@pytest.fixture
def wanted(images):
    graph = Bundle(CLIP, threads=1)
    return lambda count: graph.embed_images(images(count))


@pytest.fixture
def images():
    return lambda count: [np.random.default_rng(place).random((3, 64, 64), np.float32) for place in range(count)]
