"""`openset.Predictor` comes when it is asked for, or says what to install or rename; the clients never need it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import openset

ROOT = Path(__file__).parents[2]
CALL = """
import httpx, openset
answer = httpx.Response(200, json={"models": [], "limits": {}, "memory": {}})
with openset.Client("http://a.test", transport=httpx.MockTransport(lambda request: answer)) as client:
    print(client.models().models)
"""
TRY = """
try: print(openset.Predictor.__module__)
except ImportError as error: print(type(error).__name__, error)
"""


def python(folder, code):
    """Output of `code` as a script in `folder`, as a user has it; failure shows in it."""
    (folder / "script.py").write_text(code)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(folder / "script.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_predictor_is_the_servers(tmp_path):
    assert python(tmp_path, "import openset" + TRY) == "server.predictor\n"


@pytest.mark.parametrize("module", ["onnxruntime", "prometheus_client", "PIL"])
def test_missing_package_is_named_with_its_extras(tmp_path, module):
    told = python(tmp_path, f"import sys, openset\nsys.modules[{module!r}] = None" + TRY)
    assert told.startswith("ImportError openset.Predictor runs models in this process and needs")
    assert f"needs {module}, which is not installed" in told
    assert "[cpu]', or the extra gpu in place of cpu" in told


def test_fault_of_the_server_itself_is_not_taken_for_a_missing_extra(tmp_path):
    code = "import sys, openset\nsys.modules['server.inference'] = None" + TRY
    assert python(tmp_path, code).startswith("ModuleNotFoundError No module named 'server.inference")


@pytest.mark.parametrize("room", ["server", "models", "export"])
def test_users_own_module_of_our_name_breaks_no_call(tmp_path, room):
    (tmp_path / f"{room}.py").write_text("raise SystemExit('the wrong module was imported')")
    assert python(tmp_path, CALL) == "[]\n"


def test_users_own_server_is_named_in_place_of_the_predictor(tmp_path):
    (tmp_path / "server.py").write_text("raise SystemExit('the wrong module was imported')")
    told = python(tmp_path, CALL + TRY)
    assert told.startswith("[]\nImportError openset.Predictor needs Openset's own package `server`")
    assert f"`import server` finds {tmp_path / 'server.py'}: rename that file" in told


def test_users_own_server_that_is_loaded_already_is_named_too(tmp_path):
    (tmp_path / "server.py").touch()
    told = python(tmp_path, "import server, openset" + TRY)
    assert f"finds {tmp_path / 'server.py'}" in told
    assert "finds another module" in python(tmp_path, "import server, openset\nserver.__spec__ = None" + TRY)


def test_package_lists_the_predictor_only_where_there_is_a_runtime(monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert "Predictor" in dir(openset)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "Predictor" not in dir(openset)
    assert {"Client", "AsyncClient"} <= set(dir(openset))


def test_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="module 'openset' has no attribute 'Predicter'"):
        openset.Predicter  # noqa: B018


def test_everything_exported_is_there_and_star_import_needs_no_extra(tmp_path):
    code = "import sys\nsys.modules['onnxruntime'] = sys.modules['numpy'] = sys.modules['PIL'] = None\n"
    assert python(tmp_path, code + "from openset import *\nprint(Client.__name__, 'Predictor' in globals())") == (
        "Client False\n"
    )
    assert all(hasattr(openset, name) for name in openset.__all__)
