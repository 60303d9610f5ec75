"""Nothing is sent anywhere: what ONNX Runtime would gather of its users stays off."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOAD = """
import sys
from pathlib import Path
from server.bundle import Bundle
Bundle(Path("server/bundles/clip-mini")).embed_texts(["a dog"])
assert "onnxruntime" in sys.modules
"""


def test_running_a_bundle_leaves_no_trace_of_telemetry(tmp_path: Path) -> None:
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
