"""A client of the server for Python: `Client`, and `AsyncClient` with the same methods."""

try:
    import httpx as _httpx  # noqa: F401 (asked for first, so that its absence is told in one sentence)
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(
        "server.client needs httpx, which is not installed: pip install 'openset[client]'", name="httpx"
    ) from error

from server.client.clients import AsyncClient, Client
from server.client.detections import Detected, Detections
from server.client.errors import (
    AnswerError,
    ClientError,
    ConnectionFailed,
    ImageError,
    ProblemError,
    UrlsUnsupported,
)
from server.client.pictures import Picture, Pictures
from server.client.retries import Clock, Retries

__all__ = [
    "AnswerError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Clock",
    "ConnectionFailed",
    "Detected",
    "Detections",
    "ImageError",
    "Picture",
    "Pictures",
    "ProblemError",
    "Retries",
    "UrlsUnsupported",
]
