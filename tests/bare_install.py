"""The command in an environment without any extra: `python -m tests.bare_install COMMAND ...`.

Packages of this environment that the base requirements do not bring cannot be imported.
"""

import re
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def brought_by(requirements):
    """The names of distributions that requirements bring, with their own requirements."""
    found, waiting = set(), list(requirements)
    while waiting:
        line = waiting.pop()
        name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower()
        if name not in found and "extra ==" not in line:
            found.add(name)
            with suppress(PackageNotFoundError):  # of another system
                waiting += requires(name) or []
    return found


class OnlyBase:
    """Finder that finds nothing of what only extras bring."""

    def __init__(self):
        base = brought_by(tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"])
        self.missing = {
            module
            for module, names in packages_distributions().items()
            if not {re.sub(r"[-_.]+", "-", name).lower() for name in names} & (base | {"openset"})
        }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, OnlyBase())
    from server.__main__ import COMMANDS, main

    if sys.argv[1:] == ["--help-of-all"]:  # in one process, which takes seconds to start
        for command in COMMANDS:
            with suppress(SystemExit):
                main([command, "--help"])
    else:
        sys.exit(main(sys.argv[1:]))
