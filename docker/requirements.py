"""Print the requirements of a project and its extras, one per line: `requirements.py pyproject.toml EXTRA[,EXTRA]`."""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]


def requirements(extras: Iterable[str]) -> Iterator[str]:
    """Requirements of the extras; one that refers to the project's own extras stands for theirs."""
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line)
            yield from requirements(own[1].split(",")) if own else [line]


extras = ",".join(sys.argv[2:]).split(",")
print(*dict.fromkeys([*project["dependencies"], *requirements(extras)]), sep="\n")
