"""Post-processing: token scores and boxes of a detector to detections, embeddings to class scores."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf

import numpy as np
import numpy.typing as npt

from server.contract.manifest import DetectionRules
from server.contract.text import Prompt

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
# IoU: boxes of one object by two passes differ by a few pixels; a person and the shirt they wear overlap by less.
SAME_BOX = 0.8


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a request; the first four have their default in the `DetectionRules` of the bundle.

    `label_thresholds` are the least scores of each label of the request, None for `box_threshold`; empty for all of
    them. Labels in `excluded` are never found. `nms_across_labels` lets a box suppress those of other labels too.
    """

    box_threshold: float
    text_threshold: float
    nms_iou: float | None
    max_detections: int
    label_thresholds: tuple[float | None, ...] = ()
    excluded: frozenset[int] = frozenset()
    nms_across_labels: bool = False

    @classmethod
    def of(cls, rules: DetectionRules) -> "Thresholds":
        return cls(rules.box_threshold, rules.text_threshold, rules.nms_iou, rules.max_detections)

    @property
    def least(self) -> float:
        """The lowest score that any detection may have."""
        return min(self.box_threshold if value is None else value for value in self.label_thresholds or (None,))

    def of_labels(self, first: int, count: int) -> Float32:
        """Least scores [count] of the labels from `first` on; infinite for one that is excluded."""
        given = self.label_thresholds[first : first + count] or (None,) * count
        limits = [self.box_threshold if value is None else value for value in given]
        return np.asarray([inf if first + i in self.excluded else limit for i, limit in enumerate(limits)], np.float32)


@dataclass(frozen=True)
class Detection:
    """A box (x0, y0, x1, y1 in pixels of the image) with its label as the client wrote it and its index in the request.

    matched: [start, end) characters, within the label, of the words that scored above the text threshold. label_scores:
    where requested, the score of every label of the request, None for a label without a score for this box.
    """

    box: tuple[float, float, float, float]
    label: str
    label_id: int
    score: float
    matched: tuple[tuple[int, int], ...]
    label_scores: tuple[float | None, ...] | None = None


@dataclass(frozen=True, eq=False)
class PassOutput:
    """Detector output for one prompt: token_scores [N, T] in 0..1, boxes_cxcywh [N, 4] in 0..1 of the image."""

    prompt: Prompt
    token_scores: Float32
    boxes_cxcywh: Float32

    def above(self, threshold: float, rules: DetectionRules) -> "PassOutput":
        """Copy with only the queries for which some label scores above `threshold`."""
        rows = label_scores(self.token_scores, self.prompt, rules).max(1) > threshold
        return PassOutput(self.prompt, self.token_scores[rows], self.boxes_cxcywh[rows])


def detections(
    token_scores: Float32,
    boxes_cxcywh: Float32,
    prompt: Prompt,
    *,
    size: tuple[int, int],
    rules: DetectionRules,
    thresholds: Thresholds,
    input_size: tuple[int, int] | None = None,
) -> list[Detection]:
    """Detections of one image and one prompt: see `merged_detections`."""
    output = PassOutput(prompt, token_scores, boxes_cxcywh)
    return merged_detections([output], size=size, rules=rules, thresholds=thresholds, input_size=input_size)


def merged_detections(
    outputs: Sequence[PassOutput],
    *,
    size: tuple[int, int],
    rules: DetectionRules,
    thresholds: Thresholds,
    input_size: tuple[int, int] | None = None,
    with_label_scores: bool = False,
) -> list[Detection]:
    """Detections of one image, best first, at most `max_detections` over all labels and passes.

    Sizes are (height, width) in pixels: `size` of the image, `input_size` of the model input without padding, where
    inclusive edges are counted (None: as `size`). A label is kept where its score is above `box_threshold` (strictly,
    as in GroundingDINO util/inference.py and GLIP engine/predictor_glip.py). Boxes are clipped to the image. With
    labels_per_box "best", boxes of several passes that agree (IoU above `SAME_BOX`) have one label too, the best.
    with_label_scores: a label of another pass has the score of that pass's box of the same object, if there is one.
    """
    edge = int(rules.box_edges == "inclusive")
    frame = (input_size or size) if edge else size
    scores = [label_scores(output.token_scores, output.prompt, rules) for output in outputs]  # [N, labels] each
    boxes = [to_pixels(output.boxes_cxcywh, frame, edge=edge) for output in outputs]  # [N, 4] each
    chosen = _Candidates.of(outputs, scores, boxes, rules, thresholds)
    chosen = chosen[_kept(chosen, rules, thresholds, several=len(outputs) > 1, edge=edge)]
    rows = _label_score_rows(chosen, scores, boxes, edge=edge) if with_label_scores else [None] * len(chosen.boxes)
    final = _scaled(chosen.boxes, frame, size) if edge else chosen.boxes
    found = []
    for index, box in enumerate(final.tolist()):
        output, query = outputs[chosen.passes[index]], chosen.queries[index]
        label = int(chosen.label_ids[index]) - output.prompt.first_label
        found.append(
            Detection(
                box=(box[0], box[1], box[2], box[3]),
                label=output.prompt.labels[label].text,
                label_id=int(chosen.label_ids[index]),
                score=float(chosen.scores[index]),
                matched=_matched(output.token_scores[query], output.prompt, label, thresholds.text_threshold),
                label_scores=rows[index],
            )
        )
    return found


def label_scores(token_scores: Float32, prompt: Prompt, rules: DetectionRules) -> Float32:
    """Label scores [N, labels] of token_scores [N, T]: maximum or mean over the tokens of each label."""
    reduce = np.max if rules.token_reduction == "max" else np.mean
    columns = [reduce(token_scores[:, prompt.token_label == label], axis=1) for label in range(len(prompt.labels))]
    return np.stack(columns, axis=1).astype(np.float32)


def to_pixels(boxes_cxcywh: Float32, size: tuple[int, int], *, edge: int = 0) -> Float32:
    """Convert boxes [N, 4] from cx, cy, w, h in 0..1 to x0, y0, x1, y1 in pixels, clipped to `size` (height, width).

    With inclusive edges (`edge` 1) the last pixel is at width - 1 and height - 1.
    """
    height, width = size
    centre, half = boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] / 2
    scale = np.asarray([width, height, width, height], np.float32)
    boxes: Float32 = np.concatenate([centre - half, centre + half], axis=1) * scale
    return np.clip(boxes, 0, scale - edge)


def iou_matrix(a: Float32, b: Float32) -> Float32:
    """Intersection over union [N, M] of boxes x0, y0, x1, y1 [N, 4] and [M, 4]; 0 where both are empty."""
    return _iou(a.T[:, :, None], b.T[:, None], edge=0)


def nms(boxes: Float32, label_ids: Indices, iou: float, *, limit: int, edge: int = 0) -> Indices:
    """Non-maximum suppression per label: rows of the boxes that stay, at most `limit`.

    boxes [N, 4] x0, y0, x1, y1, sorted best first, label_ids [N]; a box is dropped where a better one of its label
    overlaps by more than `iou`. edge: 1 counts both edges, in pixels.
    """
    # By label: the rows still in question, best first, and their boxes [4, rows]. Only those are compared, ever fewer.
    left = {label: np.flatnonzero(label_ids == label) for label in set(label_ids.tolist())}
    columns = {label: np.ascontiguousarray(boxes[rows].T) for label, rows in left.items()}
    stays = np.ones(len(boxes), np.bool_)
    chosen: list[int] = []
    for row, label in enumerate(label_ids.tolist()):
        if not stays[row]:
            continue
        chosen.append(row)
        if len(chosen) == limit:
            break
        rows, others = left[label][1:], columns[label][:, 1:]  # the first is this row itself
        worse = _iou(columns[label][:, :1], others, edge=edge) > iou
        if worse.any():
            stays[rows[worse]] = False
            rows, others = rows[~worse], others[:, ~worse]
        left[label], columns[label] = rows, others
    return np.asarray(chosen, np.intp)


def class_scores(similarity: Float32, *, logit_scale: float, logit_bias: float, multi_label: bool) -> Float32:
    """Probabilities [images, labels] of cosines: softmax over the labels, or a sigmoid of each (`multi_label`)."""
    logits = similarity * np.float32(logit_scale) + np.float32(logit_bias)
    if multi_label:
        return np.asarray((1 + np.tanh(logits / 2)) / 2, np.float32)  # the sigmoid, without overflow
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """K candidates: their pass, query in it, index of the label in the request and score [K]; boxes [K, 4]."""

    passes: Indices
    queries: Indices
    label_ids: Indices
    scores: Float32
    boxes: Float32

    def __getitem__(self, rows: Indices) -> "_Candidates":
        return _Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def of(
        cls,
        outputs: Sequence[PassOutput],
        scores: Sequence[Float32],
        boxes: Sequence[Float32],
        rules: DetectionRules,
        thresholds: Thresholds,
    ) -> "_Candidates":
        """Queries and labels that score above their threshold in any pass, best first."""
        parts = []
        for number, (output, table, places) in enumerate(zip(outputs, scores, boxes, strict=True)):
            limits = thresholds.of_labels(output.prompt.first_label, table.shape[1])
            queries, labels = _candidates(table, rules, limits)
            label_ids = labels + output.prompt.first_label
            parts.append((np.full_like(queries, number), queries, label_ids, table[queries, labels], places[queries]))
        passes, queries, label_ids, values, boxes_ = map(np.concatenate, zip(*parts, strict=True))
        return cls(passes, queries, label_ids, values, boxes_)[np.argsort(-values, kind="stable")]


def _kept(chosen: _Candidates, rules: DetectionRules, thresholds: Thresholds, *, several: bool, edge: int) -> Indices:
    """Rows of the candidates that become detections, best first."""
    keep = np.arange(len(chosen.boxes))
    merging = several and rules.labels_per_box == "best"
    if thresholds.nms_iou is not None:
        limit = len(keep) if merging else thresholds.max_detections
        groups = np.zeros_like(chosen.label_ids) if thresholds.nms_across_labels else chosen.label_ids
        keep = nms(chosen.boxes, groups, thresholds.nms_iou, limit=limit, edge=edge)
    if merging:
        keep = keep[_unrepeated(chosen.boxes[keep], chosen.passes[keep], limit=thresholds.max_detections, edge=edge)]
    return keep[: thresholds.max_detections]


def _unrepeated(boxes: Float32, passes: Indices, *, limit: int, edge: int) -> Indices:
    """Rows of the boxes [N, 4], sorted best first, that stay: no better box of another pass is of the same object.

    At most `limit` rows are returned.
    """
    stays = np.ones(len(boxes), np.bool_)
    columns = np.ascontiguousarray(boxes.T)
    chosen: list[int] = []
    for row in range(len(boxes)):
        if len(chosen) == limit:
            break
        if stays[row]:
            chosen.append(row)
            overlap = _iou(columns[:, row : row + 1], columns[:, row + 1 :], edge=edge)
            stays[row + 1 :] &= (overlap <= SAME_BOX) | (passes[row + 1 :] == passes[row])
    return np.asarray(chosen, np.intp)


def _label_score_rows(
    chosen: _Candidates, scores: Sequence[Float32], boxes: Sequence[Float32], *, edge: int
) -> list[tuple[float | None, ...]]:
    """Scores of all labels for each candidate, None where the pass of a label has no box of the same object."""
    columns = []
    for number, (table, places) in enumerate(zip(scores, boxes, strict=True)):
        own = chosen.passes == number
        rows = np.full((len(chosen.boxes), table.shape[1]), np.nan, np.float32)
        rows[own] = table[chosen.queries[own]]
        if len(places) and not own.all():
            overlap = _iou(chosen.boxes[~own].T[:, :, None], places.T[:, None], edge=edge)  # [others, N]
            same = np.where((overlap.max(1) > SAME_BOX)[:, None], table[overlap.argmax(1)], np.nan)
            rows[~own] = same
        columns.append(rows)
    matrix = np.concatenate(columns, axis=1).tolist()
    return [tuple(None if np.isnan(value) else value for value in row) for row in matrix]


def _candidates(scores: Float32, rules: DetectionRules, limits: Float32) -> tuple[Indices, Indices]:
    """Queries and labels [K] in scores [N, labels] above their `limits` [labels], best first.

    The best label of a box is chosen first, and counts if it is above its limit: the next one is not in its place.
    """
    if rules.labels_per_box == "all":
        queries, label_ids = np.nonzero(scores > limits)
    else:
        label_ids = np.where(np.isinf(limits), np.float32(-1), scores).argmax(1)
        queries = np.flatnonzero(scores[np.arange(len(scores)), label_ids] > limits[label_ids])
        label_ids = label_ids[queries]
    order = np.argsort(-scores[queries, label_ids], kind="stable")
    return queries[order], label_ids[order]


def _iou(a: Float32, b: Float32, *, edge: int) -> Float32:
    """Intersection over union of boxes x0, y0, x1, y1 [4, ...], broadcast; 0 where both are empty."""
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + edge
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + edge
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a, edge) + _area(b, edge) - inter
    result: Float32 = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return result


def _area(boxes: Float32, edge: int) -> Float32:
    area: Float32 = (boxes[2] - boxes[0] + edge) * (boxes[3] - boxes[1] + edge)
    return area


def _scaled(boxes: Float32, frame: tuple[int, int], size: tuple[int, int]) -> Float32:
    """Scale boxes [N, 4] x0, y0, x1, y1 with inclusive edges from pixels of `frame` to those of `size` (height, width).

    Inclusive edges of a box narrower than a pixel are in reverse order, which no client expects: it becomes a line.
    """
    ratio = np.asarray([size[1] / frame[1], size[0] / frame[0]], np.float32)
    low, high = boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])
    scaled: Float32 = np.concatenate([low * ratio, high * ratio], axis=1)
    return scaled


def _matched(scores: Float32, prompt: Prompt, label_id: int, threshold: float) -> tuple[tuple[int, int], ...]:
    """Spans of the label's words whose tokens score above the threshold."""
    spans: list[tuple[int, int]] = []
    for start, end in prompt.token_span[(prompt.token_label == label_id) & (scores > threshold)]:
        if spans and spans[-1][1] >= start:  # word pieces of one word touch
            spans[-1] = (spans[-1][0], max(spans[-1][1], int(end)))
        else:
            spans.append((int(start), int(end)))
    return tuple(spans)
