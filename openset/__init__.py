"""Openset for Python: `Client` and `AsyncClient` ask a running server, `Predictor` runs the models in this process.

Importing this loads nothing of the server, whose packages the extras `cpu` and `gpu` bring.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from openset.async_client import AsyncClient
from openset.client import Client
from openset.endpoints import CallOptions, ClassifyOptions, DetectOptions, SimilarityOptions
from openset.errors import AnswerError, ClientError, ConnectionFailed, ImageError, ProblemError, UrlsUnsupported
from openset.images import ImageInput, ImageInputs
from openset.results import (
    ClassifyAnswer,
    DetectAnswer,
    Detection,
    EmbedAnswer,
    ImageDetections,
    ImageProblem,
    ImageScores,
    Job,
    ModelsAnswer,
    SimilarityAnswer,
)
from openset.retries import Retries

if TYPE_CHECKING:
    from openset.predictor import Predictor as Predictor

# Without Predictor: `from openset import *` must work without the server's packages.
__all__ = [
    "AnswerError", "AsyncClient", "CallOptions", "ClassifyAnswer", "ClassifyOptions", "Client", "ClientError",
    "ConnectionFailed", "DetectAnswer", "DetectOptions", "Detection", "EmbedAnswer", "ImageDetections", "ImageError",
    "ImageInput", "ImageInputs", "ImageProblem", "ImageScores", "Job", "ModelsAnswer", "ProblemError", "Retries",
    "SimilarityAnswer", "SimilarityOptions", "UrlsUnsupported",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from openset.predictor import load_predictor

        return load_predictor()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # `help(openset)` reads every name listed, so Predictor is listed only where a runtime is installed.
    return sorted([*globals(), *(["Predictor"] if find_spec("onnxruntime") else [])])
