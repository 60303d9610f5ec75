"""The detector of a job: the models in this process, or a server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from openset.client import Client
from openset.errors import ConnectionFailed, ImageError, ProblemError
from openset.label.results_log import PictureResult
from openset.label.sources import MediaFile
from openset.results import Detection

TIMEOUT_S = 300.0
# Problems of one picture; any other would meet the next picture too.
_OF_PICTURE = {"broken-image", "image-too-large", "body-too-large", "unsupported-image"}


class DetectorError(Exception):
    """A detector that gives no answers; the message is one sentence."""


class Detector(Protocol):
    """A detector that is asked for the same things in every picture; threads may share it."""

    name: str
    weights_sha256: str

    def label(self, picture: MediaFile) -> PictureResult:
        """Find what was asked for; a picture that cannot be read gives a result with an `error`."""

    def close(self) -> None:
        """End its threads or connections."""


class InProcessDetector:
    """A model of some bundles, or of the bundled ones."""

    def __init__(self, bundles: Sequence[Path], model: str | None, request: Mapping[str, Any], **settings: Any) -> None:
        from openset.predictor import load_predictor
        from server.contract.manifest import BundleError
        from server.settings import SettingsError

        try:
            self._predictor = load_predictor()(task="detect", bundle=tuple(bundles), **settings)
        except (BundleError, SettingsError) as error:
            raise DetectorError(str(error)) from error
        self._request = {**request, "model": model}
        try:
            self.name, self.weights_sha256 = _chosen(
                [(each.name, each.family, each.weights_sha256) for each in self._predictor.models], model
            )
        except DetectorError:
            self.close()
            raise

    def label(self, picture: MediaFile) -> PictureResult:
        from server.contract.text import PromptError
        from server.errors import Fault, kind_of

        try:
            answer = self._predictor.detect(picture.path, **self._request)
        except (Fault, PromptError) as error:
            if kind_of(error).slug in _OF_PICTURE:
                return PictureResult(image=picture.name, error=str(error))
            raise DetectorError(str(error)) from error
        (found,) = answer.results
        detections = [Detection.model_validate(each.model_dump()) for each in found.detections]
        return PictureResult(image=picture.name, width=found.width, height=found.height, detections=detections)

    def close(self) -> None:
        self._predictor.close()


class ServerDetector:
    """A running server."""

    def __init__(self, url: str, api_key: str | None, model: str | None, request: Mapping[str, Any]) -> None:
        self._client = Client(url, api_key=api_key, timeout=TIMEOUT_S)
        self._request = {**request, "model": model}
        try:
            models = [each for each in self._client.models().models if "detect" in each.tasks]
            names = [(each.name, each.family, each.weights_sha256) for each in models]
            self.name, self.weights_sha256 = _chosen(names, model)
        except (DetectorError, ProblemError, ConnectionFailed) as error:
            self.close()
            raise DetectorError(str(error)) from error

    def label(self, picture: MediaFile) -> PictureResult:
        try:
            answer = self._client.detect(picture.path, **self._request)
        except ImageError as error:
            return PictureResult(image=picture.name, error=str(error))
        except ProblemError as error:
            if error.type.rpartition(":")[2] in _OF_PICTURE:
                return PictureResult(image=picture.name, error=error.detail)
            raise DetectorError(str(error)) from error
        except ConnectionFailed as error:
            raise DetectorError(str(error)) from error
        (found,) = answer.results
        return PictureResult(image=picture.name, width=found.width, height=found.height, detections=found.detections)

    def close(self) -> None:
        self._client.close()


def _chosen(models: Sequence[tuple[str, str, str]], name: str | None) -> tuple[str, str]:
    """Name and weights' hash of the model called `name`, or of that family; without a name of the first."""
    for own, family, sha256 in models:
        if name in (None, own, family):
            return own, sha256
    names = ", ".join(own for own, _, _ in models) or "none"
    raise DetectorError(f"there is no detector {name or ''!r}; there are: {names}")
