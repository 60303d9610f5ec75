"""The rules of the house: who imports whom, what the server may load, how large a file grows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("openset", "server", "models", "export")
# What the modules of a room may import of ours; the longest matching prefix decides.
MAY_IMPORT = {
    "server": ("server",),
    "server.contract": ("server.contract",),
    "server.memory": ("server.memory", "server.contract"),
    "server.runtimes": ("server.runtimes", "server.contract", "server.memory"),
    "server.scheduling": ("server.scheduling", "server.memory", "server.telemetry", "server.errors"),
    "server.__main__": PACKAGES,
    "openset": ("openset",),
    "openset.predictor": ("openset", "server.predictor"),  # on demand
    "models": ("models", "server.contract"),
    "models.evaluation": ("models", "server", "openset"),
    "models.pseudo_labels": ("models", "server"),
    "export": PACKAGES,
}
CONTRACT_LIBRARIES = {"numpy", "PIL", "pydantic", "tokenizers", "ftfy"}
NOT_A_ROOM = {"utils", "misc", "helpers", "common", "core", "manager"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield node.module


def within(name, rooms):
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_module_imports_only_what_its_room_may(path):
    module = module_name(path)
    allowed = MAY_IMPORT[max((room for room in MAY_IMPORT if within(module, [room])), key=len)]
    ours = [name for name in imports_of(path) if name.split(".")[0] in PACKAGES]
    assert [name for name in ours if not within(name, allowed)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "server/contract").glob("*.py")), ids=module_name)
def test_contract_uses_only_its_libraries(path):
    foreign = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"server"}
    assert foreign <= CONTRACT_LIBRARIES


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_file_holds_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert not NOT_A_ROOM & {path.stem, path.parent.name}


def test_importing_the_server_loads_no_torch():
    code = (
        "import sys, server.app, server.cli, server.__main__\n"
        "print([m for m in ('torch', 'models', 'export', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_openset_loads_nothing_that_only_an_extra_brings():
    extras = "numpy PIL fastapi uvicorn pydantic_settings tokenizers onnxruntime torch supervision pycocotools"
    code = (
        "import sys, openset\n"
        f"print([m for m in {extras.split()} + ['server', 'models', 'export'] if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tracked_files_stay_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 30 * 2**20


def test_bundled_weights_stay_within_twenty_mebibytes():
    files = [path for path in (ROOT / "server/bundles").rglob("*") if path.is_file()]
    assert files, "the server ships with bundles"
    assert sum(path.stat().st_size for path in files) <= 20 * 2**20
