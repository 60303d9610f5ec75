"""Hints that hold for the way the package came here."""

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from server import installation
from server.installation import ROOT, install_command, version_line


class FakeDistribution:
    version = "1.2.3"

    def __init__(self, origin):
        self._origin = origin

    def read_text(self, name):
        return self._origin and json.dumps(self._origin)


@pytest.fixture
def installed(monkeypatch):
    """Lets the package have come in some way, into an environment with these modules."""

    def install(origin, modules=("pip",)):
        found = None if origin == "checkout" else FakeDistribution(origin)
        monkeypatch.setattr(installation, "_distribution", lambda: found)
        monkeypatch.setattr(installation, "_has", lambda module: module in modules)

    return install


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        ("checkout", f"-e '{ROOT}[cpu,evaluate]'"),
        ({"url": "file:///src/my%20openset", "dir_info": {"editable": True}}, "-e '/src/my openset[cpu,evaluate]'"),
        ({"url": "file:///src/openset", "dir_info": {}}, "'/src/openset[cpu,evaluate]'"),
        (
            {"url": "file:///a/openset-1-py3-none-any.whl", "archive_info": {}},
            "'openset[cpu,evaluate] @ file:///a/openset-1-py3-none-any.whl'",
        ),
        (
            {"url": "https://host/openset.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "'openset[cpu,evaluate] @ git+https://host/openset.git@abc'",
        ),
        (None, "'openset[cpu,evaluate]'"),
    ],
)
def test_extra_is_installed_from_where_the_package_came(installed, origin, requirement):
    installed(origin)
    assert install_command(("cpu", "evaluate")) == f"{sys.executable} -m pip install {requirement}"


def test_runtime_that_is_there_is_not_asked_for_again(installed):
    installed(None, modules=("pip", "onnxruntime"))
    assert install_command(("cpu", "evaluate")).endswith("'openset[evaluate]'")
    assert install_command(("cpu",)).endswith("'openset[cpu]'")


def test_environment_without_pip_is_told_of(installed, monkeypatch):
    installed(None, modules=())
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "has no pip" in install_command(("cpu",))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/uv")
    assert install_command(("cpu",)) == f"uv pip install --python {sys.executable} 'openset[cpu]'"


def test_version_is_told_with_the_folder(installed):
    installed(None)
    assert version_line().startswith("openset 1.2.3, Python 3.")
    assert Path(version_line().rpartition(", ")[2]) == ROOT


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="it builds with setuptools")
def test_editable_install_is_found_beside_a_clone_of_the_same_name(tmp_path):
    wheels, site, clone = tmp_path / "wheels", tmp_path / "site", tmp_path / "openset"
    wheels.mkdir()
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    for room in ("openset", "server", "models", "export"):
        (clone / room).mkdir()
        (clone / room / "__init__.py").touch()
    build = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(wheels)], cwd=clone, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    search = "import site, sys; site.addsitedir(sys.argv[1]); import openset; print(openset.__file__)"
    found = subprocess.check_output([sys.executable, "-S", "-c", search, str(site)], cwd=tmp_path, text=True)
    assert Path(found.strip()) == clone / "openset" / "__init__.py"
