"""Runtimes of artefacts: ONNX Runtime and TensorRT, behind the protocol in `base`."""

import os

# ONNX Runtime reads this when it is loaded: from 1.32 on it gathers usage data unless it is set, keeps a device id in
# the home folder and sends events away. Nothing is sent from here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
