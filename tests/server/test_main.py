"""The command's door: what is missing is named with the extra that brings it, never shown as a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from server.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("argv", "module", "extra"),
    [
        (["export", "--checkpoint", "x", "--out", "y"], "torch", "export"),
        (["train", "clip-mini", "--out", "y"], "torch", "train"),
        (["serve"], "onnxruntime", "cpu"),
        (["serve"], "fastapi", "cpu"),
        (["key", "new", "ann"], "starlette", "cpu"),
        (["evaluate", "coco"], "numpy", "evaluate"),
        (["evaluate", "coco"], "onnxruntime", "cpu,evaluate"),
    ],
)
def test_missing_package_names_the_extra_to_install(argv, module, extra):
    code = f"import sys; sys.modules[{module!r}] = None; from server.__main__ import main; sys.exit(main({argv!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"pip install 'openset[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [[], ["paint"], ["detect"]])
def test_wrong_usage_exits_with_2(argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
