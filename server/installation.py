"""The way this package was installed: its version, and the command that adds what an extra brings."""

import importlib.util
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ROOT = Path(__file__).parents[1]
NAME = "openset"


def version_line() -> str:
    """Version, Python, and the folder that the code is read from."""
    found = _distribution()
    return f"{NAME} {found.version if found else 'of a checkout'}, Python {platform.python_version()}, {ROOT}"


def install_command(extras: Sequence[str]) -> str:
    """The command that installs these extras into this environment, from where the package itself came.

    `cpu` is left out where a runtime is installed: those of CPU and GPU overwrite each other's files.
    """
    wanted = [extra for extra in extras if extra != "cpu" or not _has("onnxruntime")]
    requirement = _requirement("[" + ",".join(wanted or extras) + "]")
    if _has("pip"):
        return f"{shlex.quote(sys.executable)} -m pip install {requirement}"
    if shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(sys.executable)} {requirement}"
    return f"pip install {requirement} (this environment has no pip; in a container, build the image with it)"


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _requirement(extras: str) -> str:
    found = _distribution()
    origin = json.loads((found and found.read_text("direct_url.json")) or "{}")  # PEP 610: absent from an index
    url = origin.get("url", "")
    if found is None or origin.get("dir_info", {}).get("editable"):
        folder = ROOT if found is None else _path(url)
        return f"-e {shlex.quote(f'{folder}{extras}')}"
    if "dir_info" in origin:
        return shlex.quote(f"{_path(url)}{extras}")
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return shlex.quote(f"{NAME}{extras} @ {vcs['vcs']}+{url}@{vcs['commit_id']}")
    return shlex.quote(f"{NAME}{extras} @ {url}" if url else f"{NAME}{extras}")


def _distribution() -> Distribution | None:
    try:
        return distribution(NAME)
    except PackageNotFoundError:  # a checkout on the path
        return None


def _path(url: str) -> str:
    return url2pathname(urlsplit(url).path)
