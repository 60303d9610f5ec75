"""Requirements of the images: those of the project and of its extras, resolved without asking an index for it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras):
    command = [sys.executable, "docker/requirements.py", "pyproject.toml", *extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_extra_brings_what_it_refers_to_and_the_base():
    lines = requirements("cpu")
    assert set(PROJECT["dependencies"]) | set(PROJECT["optional-dependencies"]["serve"]) <= set(lines)
    assert any(line.startswith("onnxruntime>=") for line in lines)


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_no_extra_asks_for_the_project_itself(extra):
    assert [line for line in requirements(extra) if line.startswith(PROJECT["name"])] == []


def test_extras_may_stand_in_one_argument_as_a_build_gives_them():
    assert requirements("cpu,cluster") == requirements("cpu", "cluster")
    assert any(line.startswith("ray[serve]==") for line in requirements("cpu,cluster"))


def test_requirement_of_several_extras_is_given_once():
    lines = requirements("cpu", "export", "train")
    assert len(lines) == len(set(lines))
