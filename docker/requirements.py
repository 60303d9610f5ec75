"""Prints what a project depends on, one requirement a line: `python requirements.py pyproject.toml EXTRA...`."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *(line for extra in sys.argv[2:] for line in extras[extra]), sep="\n")
