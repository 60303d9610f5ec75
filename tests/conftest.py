"""What every test shares."""

from hypothesis import settings

import server.runtimes  # noqa: F401 (before any test imports onnxruntime: it turns its telemetry off)

# A machine under other load is no defect of the code: examples have no deadline.
settings.register_profile("openset", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=2000)
settings.load_profile("openset")
