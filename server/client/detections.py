"""The answer of /detect in the forms that other tools read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from server.box_formats import Box, BoxFormat, formatted_box
from server.schemas import DetectAnswer, ImageDetections

if TYPE_CHECKING:
    import supervision


class CocoResult(TypedDict):
    """One entry of a COCO results file; `bbox` is x, y, width, height in pixels."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


class Detections(ImageDetections):
    """The detections of one image, best first; each `box` is x0, y0, x1, y1, as the clients ask for it."""

    def boxes(self, box_format: BoxFormat = "xyxy") -> list[Box]:
        """The boxes in any format that the server knows, such as "xyxyn": shares of the image's width and height."""
        return [formatted_box(found.box, box_format, size=(self.height, self.width)) for found in self.detections]

    def to_coco(self, *, image_id: int, categories: Mapping[str, int] | None = None) -> list[CocoResult]:
        """Entries of a COCO results file; `categories` maps labels to ids, by default a label's place from 1."""
        if categories is not None and (missing := {found.label for found in self.detections} - categories.keys()):
            raise ValueError(f"categories has no id for {', '.join(map(repr, sorted(missing)))}")
        entries: list[CocoResult] = []
        for found in self.detections:
            x0, y0, x1, y1 = found.box
            category = found.label_id + 1 if categories is None else categories[found.label]
            bbox = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]  # the server rounds to hundredths
            entries.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": found.score})
        return entries

    def to_supervision(self) -> "supervision.Detections":
        """As `supervision.Detections`: `class_id` is the label's place, `data["class_name"]` the label."""
        try:
            import supervision
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            message = "to_supervision() needs the package supervision, which is not installed: pip install supervision"
            raise ModuleNotFoundError(message, name="supervision") from error
        found = self.detections
        return supervision.Detections(
            xyxy=np.array([each.box for each in found], np.float32).reshape(-1, 4),
            confidence=np.array([each.score for each in found], np.float32),
            class_id=np.array([each.label_id for each in found], np.int64),
            data={"class_name": np.array([each.label for each in found], np.str_)},
        )


class Detected(DetectAnswer):
    """What /detect answers, with detections that convert."""

    results: list[Detections]  # type: ignore[assignment] # a list may not narrow: nobody puts other items in this one
