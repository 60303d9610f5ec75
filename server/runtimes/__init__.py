"""What runs an artefact: one file a runtime, behind the protocol in `base`."""

import os

# ONNX Runtime's own switch, read when it is loaded: from 1.32 it gathers usage data unless this is set, keeps a device
# id in the home folder and sends events away. Nothing is sent from here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
