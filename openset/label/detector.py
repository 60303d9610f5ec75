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


class ReadablePicture(Protocol):
    """A picture that can be read, under its name in the job."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Read the bytes; OSError."""


class ModelDetector:
    """A model with the fields of a request; `thresholds`: least scores of single labels, `rest` of all others."""

    def __init__(self, model: Answerer, request: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
        self._model, self._thresholds = model, dict(thresholds)
        self._rest = request.get("box_threshold", 0.0)
        # What is weaker suppresses nothing stronger, so that dropping it afterwards changes nothing else.
        least = {"box_threshold": min([*thresholds.values(), *_given(request)])} if thresholds else {}
        self._request = {**request, **least}

    def label(self, picture: ReadablePicture) -> PictureResult:
        try:
            data = picture.read()
        except OSError as error:
            return unreadable(picture, error)
        try:
            answer = self._model.ask(data, **self._request)
        except PictureFault as fault:
            return PictureResult(image=picture.name, error=str(fault))
        (found,) = answer.results
        detections = [Detection.model_validate(each.model_dump()) for each in found.detections if self._is_wanted(each)]
        return PictureResult(image=picture.name, width=found.width, height=found.height, detections=detections)

    def _is_wanted(self, found: Any) -> bool:
        return not self._thresholds or found.score >= self._thresholds.get(found.label, self._rest)


def unreadable(picture: ReadablePicture, error: OSError) -> PictureResult:
    """The result for a file that cannot be read."""
    return PictureResult(image=picture.name, error=f"the file cannot be read: {error.strerror or error}")


def _given(request: Mapping[str, Any]) -> list[float]:
    return [request["box_threshold"]] if "box_threshold" in request else []
