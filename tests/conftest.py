"""What every test shares."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before any test imports PyTorch: its threads would wait busily for cores that the other workers use.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

import server.runtimes  # noqa: F401 (before any test imports onnxruntime: it turns its telemetry off)

# A machine under other load is no defect of the code: examples have no deadline.
settings.register_profile("openset", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=2000)
settings.load_profile("openset")
