"""The command's door: what is missing is named with the extra that brings it, never shown as a traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("argv", "module", "extra"),
    [
        (["export", "--checkpoint", "x", "--out", "y"], "torch", "export"),
        (["export", "--out", "y", "--precision", "int8"], "onnx", "int8"),
        (["train", "clip-mini", "--out", "y"], "torch", "train"),
        (["serve"], "onnxruntime", "cpu"),
        (["serve"], "fastapi", "cpu"),
        (["key", "new", "ann"], "starlette", "cpu"),
        (["completion", "bash"], "shtab", "cpu"),
        (["cluster", "config"], "yaml", "cluster"),
        (["evaluate", "coco.json", "--out", "y"], "numpy", "evaluate"),
        (["evaluate", "coco.json", "--out", "y"], "onnxruntime", "cpu,evaluate"),
    ],
)
def test_missing_package_names_the_extra_to_install(argv, module, extra):
    code = f"import sys; sys.modules[{module!r}] = None; from server.__main__ import main; sys.exit(main({argv!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"[{extra}]'" in done.stderr
    assert f"{sys.executable} -m pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [[], ["paint"], ["detect"]])
def test_wrong_usage_exits_with_2(argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


def test_unknown_option_is_told_with_those_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--out", "y", "--size", "100"])
    told = capsys.readouterr().err
    assert told.startswith("usage: openset export ")
    assert "--shorter PIXELS" in told
    assert told.endswith("openset export: error: unrecognized arguments: --size 100\n")


def test_help_needs_no_extra():
    bare = [sys.executable, "-m", "tests.bare_install", "--help-of-all"]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^usage: openset (\S+)", done.stdout, re.MULTILINE) == list(COMMANDS)


def test_command_without_its_extras_names_all_of_them():
    bare = [sys.executable, "-m", "tests.bare_install", "evaluate", "coco.json", "--out", "y"]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "[cpu,evaluate]" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_listed_without_an_extra(tmp_path):
    bare = [sys.executable, "-m", "tests.bare_install", "models", "--cache-dir", str(tmp_path)]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "openset pull" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs_by_a_function_that_is_there(command):
    module, _, function = COMMANDS[command].run.partition(":")
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert f"\ndef {function}(args: argparse.Namespace) -> int:\n" in path.read_text()


def test_version_names_python_and_the_folder_of_the_code(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(rf"openset \S+, Python [\d.]+\S*, {ROOT}\n", capsys.readouterr().out)


def test_list_given_as_several_words_is_told_how_to_be_written(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["detect", "a.jpg", "--labels", "dog", "cat", "red bird"])
    assert ended.value.code == 2
    assert "for several, write --labels 'dog,cat,red bird'" in capsys.readouterr().err
