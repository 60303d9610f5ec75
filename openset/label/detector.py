"""The detector of a job: what is asked of every picture, and its answer as a result."""

from collections.abc import Mapping
from typing import Any, Protocol

from openset.answerer import Answerer, PictureFault
from openset.label.results_log import PictureResult
from openset.results import Detection
from openset.sources import MediaFile


class Detector(Protocol):
    """A detector that is asked for the same things in every picture; threads may share it."""

    def label(self, picture: MediaFile) -> PictureResult:
        """Find what was asked for; a picture that cannot be read gives a result with an `error`."""


class ModelDetector:
    """A model with the fields of a request."""

    def __init__(self, model: Answerer, request: Mapping[str, Any]) -> None:
        self._model, self._request = model, dict(request)

    def label(self, picture: MediaFile) -> PictureResult:
        try:
            answer = self._model.ask(picture.path, **self._request)
        except PictureFault as fault:
            return PictureResult(image=picture.name, error=str(fault))
        (found,) = answer.results
        detections = [Detection.model_validate(each.model_dump()) for each in found.detections]
        return PictureResult(image=picture.name, width=found.width, height=found.height, detections=detections)
