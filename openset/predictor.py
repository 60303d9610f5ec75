"""Lazy import of the server's `Predictor`, with an error that names what to install or rename."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.predictor import Predictor as Predictor

_SERVER = Path(__file__).parents[1] / "server" / "__init__.py"


def load_predictor() -> "type[Predictor]":
    """Import `server.predictor.Predictor`; ImportError names a missing extra, or a file in its place."""
    _check_not_shadowed()
    try:
        import onnxruntime  # noqa: F401 (the predictor itself imports it only when it loads a model)

        from server.predictor import Predictor
    except ModuleNotFoundError as error:
        from server.installation import install_command

        if error.name is None or error.name.split(".")[0] == "server":
            raise  # a fault of this installation, which no extra mends
        raise ImportError(
            f"openset.Predictor runs models in this process and needs {error.name}, which is not installed:"
            f" {install_command(('cpu',))}, or the extra gpu in place of cpu for an NVIDIA GPU",
            name=error.name,
        ) from error
    return Predictor


def _check_not_shadowed() -> None:
    """ImportError where `import server` would find, or has found, another file than the package beside this one."""
    try:
        spec = importlib.util.find_spec("server")
    except ValueError:  # a module in sys.modules that was put there without a spec
        spec = None
    found = spec.origin if spec else None
    if found is None or Path(found).resolve() != _SERVER.resolve():
        raise ImportError(
            "openset.Predictor needs Openset's own package `server`, but `import server` finds"
            f" {found or 'another module'}: rename that file (openset.Client works beside it)",
            name="server",
        )
