"""The detector of a job: what is asked of every picture, and its answer as a result."""

from collections.abc import Mapping
from typing import Any, Protocol

from openset.answerer import Answerer, PictureFault
from openset.label.results_log import PictureResult
from openset.results import Detection
from openset.sources import MediaFile

_UNNAMED = "the image"


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
    """A model with the fields of a request."""

    def __init__(self, model: Answerer, request: Mapping[str, Any]) -> None:
        self._model, self._request = model, dict(request)

    def label(self, picture: ReadablePicture) -> PictureResult:
        try:
            data = picture.read()
        except OSError as error:
            return unreadable(picture, error)
        try:
            answer = self._model.ask(data, **self._request)
        except PictureFault as fault:
            # Bytes have no name in the message; with that of the job it is the same wherever the picture was read.
            told = str(fault)
            named = picture.name + told.removeprefix(_UNNAMED) if told.startswith(_UNNAMED) else told
            return PictureResult(image=picture.name, error=named)
        (found,) = answer.results
        detections = [Detection.model_validate(each.model_dump()) for each in found.detections]
        return PictureResult(image=picture.name, width=found.width, height=found.height, detections=detections)


def unreadable(picture: ReadablePicture, error: OSError) -> PictureResult:
    """The result for a file that cannot be read."""
    return PictureResult(image=picture.name, error=f"{picture.name} cannot be read: {error.strerror or error}")
