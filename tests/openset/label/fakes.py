"""Results and a detector for tests of labelling, without models."""

from openset.label.formats import Labelled
from openset.label.results_log import PictureResult, ResultsLog
from openset.results import Detection

DOG = Detection(box=(1.0, 2.0, 11.0, 22.0), label="dog", label_id=0, score=0.75, matched=[(0, 3)])
CAT = Detection(box=(0.0, 0.0, 40.0, 30.0), label="red cat", label_id=2, score=0.5, matched=[])


class FakeDetector:
    """Finds a dog in every picture; `broken` names those that cannot be read, `asked` those it was asked for."""

    name, weights_sha256 = "fake", "0" * 64

    def __init__(self, broken=()):
        self.broken, self.asked = broken, []

    def label(self, picture):
        self.asked.append(picture.name)
        if picture.name in self.broken:
            return PictureResult(image=picture.name, error="the image is damaged")
        return PictureResult(image=picture.name, width=40, height=30, detections=[DOG])

    def close(self):
        pass


def labelled(folder, *results, categories=None):
    """Results below `folder`/out, of pictures in `folder`/in."""
    log = ResultsLog(folder / "out", {})
    for result in results:
        log.append(result)
    categories = {0: "dog", 1: "banana", 2: "red cat"} if categories is None else categories
    return Labelled(log, folder / "in", folder / "out" / "frames", categories, "fake")


def result(image, *detections):
    return PictureResult(image=image, width=40, height=30, detections=list(detections))
