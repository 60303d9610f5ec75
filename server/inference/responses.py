"""Response bodies: boxes in the requested format, scores and embeddings rounded to the digits that carry meaning."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from server.contract.manifest import Manifest
from server.contract.postprocess import Detection
from server.contract.text import Phrase, TokenizedPhrase, shown
from server.requests import BoxFormat, DetectRequest
from server.schemas import DetectionBody, FieldProblem, ImageDetections, ImageScores, LabelScore, ModelId

Float32 = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
MAX_WARNINGS = 20
SCORE_DIGITS, EMBEDDING_DIGITS = 6, 8
PIXEL_DIGITS, NORMALISED_DIGITS = 2, 6


def model_id(manifest: Manifest) -> ModelId:
    """Name, family and version of the model that answers."""
    return ModelId(name=manifest.name, family=manifest.family, version=manifest.version)


def image_detections(
    detections: Sequence[Detection], labels: Sequence[Phrase], *, size: tuple[int, int], box_format: BoxFormat
) -> ImageDetections:
    """Detections of one image of `size` (height, width), beside all labels of the request."""
    spans = [(label.start, label.end) for label in labels]
    return ImageDetections(
        width=size[1],
        height=size[0],
        labels=[label.text for label in labels],
        label_spans=[(start, end) for start, end in spans if start is not None and end is not None] or None,
        detections=[
            DetectionBody(
                box=format_box(detection.box, box_format, size=size),
                label=detection.label,
                label_id=detection.label_id,
                score=round(detection.score, SCORE_DIGITS),
                matched=list(detection.matched),
                label_scores=_label_scores(detection),
            )
            for detection in detections
        ],
    )


def format_box(box_xyxy: Box, box_format: BoxFormat, *, size: tuple[int, int]) -> Box:
    """A box x0, y0, x1, y1 in pixels of an image of `size` (height, width), converted to `box_format`.

    Rounded to hundredths of a pixel or, for formats that end with "n", to millionths of the image's sides.
    """
    x0, y0, x1, y1 = box_xyxy
    digits = PIXEL_DIGITS
    if box_format.endswith("n"):
        x0, y0, x1, y1 = x0 / size[1], y0 / size[0], x1 / size[1], y1 / size[0]
        digits = NORMALISED_DIGITS
    width, height = x1 - x0, y1 - y0
    first, second, third, fourth = {
        "xyxy": (x0, y0, x1, y1),
        "xywh": (x0, y0, width, height),
        "cxcywh": (x0 + width / 2, y0 + height / 2, width, height),
    }[box_format.removesuffix("n")]
    return round(first, digits), round(second, digits), round(third, digits), round(fourth, digits)


def image_scores(scores: Float32, labels: Sequence[str], *, top_k: int | None) -> ImageScores:
    """The best `top_k` (None: all) of the scores [labels], best first; ties keep the order of the request."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    return ImageScores(
        scores=[
            LabelScore(label=labels[index], label_id=int(index), score=round(float(scores[index]), SCORE_DIGITS))
            for index in best
        ]
    )


def rounded(row: Float32, digits: int) -> list[float]:
    """A row as a list of rounded numbers."""
    return [round(value, digits) for value in row.tolist()]


def rounded_rows(matrix: Float32, digits: int) -> list[list[float]]:
    """A matrix as nested lists of rounded numbers."""
    return [rounded(row, digits) for row in matrix]


def label_warnings(request: DetectRequest, phrases: Sequence[TokenizedPhrase]) -> list[FieldProblem] | None:
    """Doubts about labels: words that the model does not know, which it does not search for; a list in one label."""
    prompted = request.prompt is not None
    warnings = [
        FieldProblem(
            field="prompt" if prompted else f"labels.{index}",
            reason=f"{shown(phrase.label.text)}: {phrase.reading}"
            + (", and it is not searched for" if phrase.reading.nothing else ""),
        )
        for index, phrase in enumerate(phrases)
        if not phrase.reading.complete
    ]
    if len(phrases) == 1 and not prompted and "," in request.labels[0]:
        reason = f"{shown(request.labels[0])} is one label: list several as items of their own"
        warnings.append(FieldProblem(field="labels.0", reason=reason))
    return warnings[:MAX_WARNINGS] or None


def _label_scores(detection: Detection) -> list[float | None] | None:
    if detection.label_scores is None:
        return None
    return [None if score is None else round(score, SCORE_DIGITS) for score in detection.label_scores]
