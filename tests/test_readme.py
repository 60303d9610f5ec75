"""The READMEs stay true: commands, examples, printed answers, links, tables and lengths.

Run as printed, with the bundled models: `curl` commands, `openset detect`, `classify` and `similarity`, Python examples
with a printed output, and a JSON answer that follows a `curl`. Held to flags and files only: what trains, exports,
downloads, measures, installs, or needs Docker. (tests/models/training/test_recipe.py reads the recipes.)
"""

import importlib
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from models.model_zoo import OFFICIAL
from server.__main__ import main, make_parser
from server.registry.model_cache import BUNDLED
from server.settings import markdown_table
from tests.benchmarks.live_server import serving

ROOT = Path(__file__).parent.parent
# The lines that a page may have; a room's README fits its subject on a few screens, or the room is split.
LIMITS = {
    "README.md": 200,
    "server/README.md": 250,
    "server/cluster/README.md": 60,
    "server/contract/README.md": 50,
    "openset/README.md": 104,
    "models/README.md": 100,
    "models/training/README.md": 160,
    "models/evaluation/README.md": 40,
    "export/README.md": 90,
    "docker/README.md": 60,
    "docker/kubernetes/README.md": 50,
    "tests/README.md": 50,
    "CONTRIBUTING.md": 120,
}
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in LIMITS}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SERVICES = set(re.findall(r"^  ([\w-]+):$", (ROOT / "compose.yaml").read_text(encoding="utf-8"), re.MULTILINE))
# Programs of the system, taken at their word.
SYSTEM = {"git", "mkdir", "unzip", "npm", "tar", "pre-commit", "export", "apt-get", ".ci/run"}
RUN = ("detect", "classify", "similarity")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def words_of(line):
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
    lexer.whitespace_split = True
    return list(lexer)


def commands_of(block):
    """Each command of a shell block as its words, without `VARIABLE=value` before it, and its line."""
    variables = {}
    for line in block.replace("\\\n", " ").splitlines():
        command = []
        for word in [*words_of(line), "&&"]:
            if word in ("&&", ";", "|"):
                if command:
                    yield command, line
                command = []
            elif not command and (assignment := re.fullmatch(r"(\w+)=(.*)", word)):
                variables[assignment[1]] = words_of(substituted(assignment[2], variables))
            elif word.startswith("$") and word[1:] in variables:
                command += variables[word[1:]]
            else:
                command.append(word)


def substituted(text, variables):
    for name, words in variables.items():
        text = text.replace(f"${name}", shlex.join(words))
    return text


COMMANDS = [
    pytest.param(words, line, id=f"{page}: {shlex.join(words)}"[:150])
    for page in PAGES
    for block in blocks(page, "sh")
    for words, line in commands_of(block)
]
EXAMPLES = [
    pytest.param(code, printed, id=f"{page} {number}")
    for page in PAGES
    for number, (code, printed) in enumerate(
        re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    )
]
ANSWERS = [
    pytest.param(command, json.loads(answer), id=page)
    for page in PAGES
    for command, answer in re.findall(
        r"^(curl .*)\n```\n\n(?:.+\n+)?```json\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL
    )
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A folder to write into, in which the paths of the READMEs are those of the repository."""
    for room in ("server", "models", "openset"):
        (tmp_path / room).symlink_to(ROOT / room)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "line"), COMMANDS)
def test_command_is_one(words, line, request, capsys):
    program, *rest = words
    program = re.sub(r"^\.venv[\w-]*/bin/", "", program)
    if program == "curl":
        check_curl(line, request)
    elif program == "openset":
        check_openset(rest, request)
    elif program in ("python", "python3", "torchrun"):
        check_module(rest, request, capsys)
    elif program in ("pip", "pytest", "ruff", "mypy", "docker"):
        CHECKS[program](rest)
    else:
        assert program in SYSTEM, f"no test knows how to check {program!r}"


def check_curl(line, request):
    if "localhost:8000" not in line:
        return  # Prometheus
    done = curl(line, request.getfixturevalue("server"), request.getfixturevalue("scratch"))
    assert done.returncode == 0, done.stdout + done.stderr


def curl(line, server, scratch):
    """Run a line of the shell as it is, but with the address of `server`."""
    if not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    command = line.replace("localhost:8000", f"127.0.0.1:{server.port}").replace("curl ", "curl -sS --fail ", 1)
    return subprocess.run(["bash", "-c", command], cwd=scratch, capture_output=True, text=True)


def check_openset(words, request=None):
    command = words[0]
    if command in RUN:
        request.getfixturevalue("scratch")
        assert main(words) == 0
        return
    make_parser(command).parse_args(words)  # exits, and so fails, on a flag that there is not


def check_module(words, request, capsys):
    module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    if module == "server":
        check_openset(rest, request)
    elif module in ("pytest", "pip"):
        CHECKS[module](rest)
    elif module != "venv":
        assert importlib.util.find_spec(module), f"there is no module {module}"
        flags = [word for word in rest if word.startswith("--")]
        if flags:
            with pytest.raises(SystemExit):
                importlib.import_module(module).main(["--help"])
            assert set(flags) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def check_pip(words):
    extras = PYPROJECT["project"]["optional-dependencies"]
    for word in words:
        if asked := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(asked[1].split(",")) <= set(extras)


def check_pytest(words):
    markers = [marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    for flag, value in itertools.pairwise(words):
        assert flag != "-m" or value in markers
    assert all((ROOT / word).exists() for word in words if "/" in word)


def check_docker(words):
    values = ("gpu", "server=2")  # of --profile and --scale
    compose, verb, *rest = (word for word in words if not word.startswith("-") and word not in values)
    assert (compose, verb) in (("compose", "up"), ("compose", "run"))
    if verb == "up":
        assert set(rest) <= SERVICES
    else:
        assert rest[0] in SERVICES
        check_openset(words[words.index(rest[0]) + 1 :])


CHECKS = {
    "pip": check_pip,
    "pytest": check_pytest,
    "docker": check_docker,
    "ruff": lambda words: None,
    "mypy": lambda words: None,
}


@pytest.mark.parametrize(("code", "printed"), EXAMPLES)
def test_python_example_prints_what_the_page_says(server, code, printed):
    code = code.replace("localhost:8000", f"127.0.0.1:{server.port}")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (printed, "")


@pytest.mark.parametrize(("command", "printed"), ANSWERS)
def test_answer_is_what_the_page_says(server, scratch, command, printed):
    answer = json.loads(curl(command, server, scratch).stdout)
    assert answer.pop("timings_ms").keys() == printed.pop("timings_ms").keys()
    assert rounded(answer) == rounded(printed)


def rounded(value):
    """Numbers to a pixel and a hundredth, so that another processor prints the same."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return pytest.approx(value, abs=1 if value > 1 else 0.01) if isinstance(value, float) else value


def test_root_page_has_a_printed_answer_and_a_python_example():
    assert any(example.id == "README.md" for example in ANSWERS)
    assert any(example.id.startswith("README.md") for example in EXAMPLES)


@pytest.mark.parametrize("page", PAGES)
def test_python_without_a_printed_output_compiles(page):
    for code in blocks(page, "python"):
        compile(code, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_page_is_short(page):
    assert len(PAGES[page].splitlines()) <= LIMITS[page]


@pytest.mark.parametrize("page", PAGES)
def test_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith(("http:", "https:")):
            continue
        file, _, heading = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings], target


@pytest.mark.parametrize("page", PAGES)
def test_named_file_exists(page):
    for path in set(re.findall(r"(?<![\w/-])(?:server|models|tests|export|openset|docker)/[\w./-]*\w", PAGES[page])):
        assert (ROOT / path).exists() or list(ROOT.glob(path + "*")), path


def test_table_of_settings_is_what_the_code_says():
    generated = re.search(r"<!-- generated .* -->\n(.*?)<!-- end -->", PAGES["server/README.md"], re.DOTALL)
    assert generated[1].strip() == markdown_table()


def test_licence_of_every_official_model_is_told():
    for official in OFFICIAL.values():
        assert official.licence in PAGES["README.md"]


@pytest.mark.parametrize("measure", ["best of six labels", "six absent animals", "a person is found"])
def test_figures_of_the_bundled_detectors_are_those_of_their_cards(measure):
    cards = [(BUNDLED / name / "MODEL_CARD.md").read_text() for name in ("grounding-dino-mini", "glip-mini")]
    [(first, of)], [(second, _)] = (re.findall(rf"(?m)^\| {measure}.* (\d+) of (\d+) \|$", card) for card in cards)
    assert f"{first} and {second} of {of}" in " ".join((ROOT / "README.md").read_text().split())


def test_pre_commit_runs_the_checks_of_continuous_integration():
    steps = (ROOT / ".ci/run").read_text(encoding="utf-8").rpartition("\nfi\n")[2].splitlines()
    hooks = re.findall(r"entry: ([^,]+),", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert hooks == steps
