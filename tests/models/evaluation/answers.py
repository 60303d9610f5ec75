"""A model with answers that a test has written down, asked like a served one."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from models.evaluation.backends import Model
from server.schemas import DetectionBody, Embeddings, ImageDetections, LabelScore

THRESHOLD = 0.5
Answer = Callable[[bytes, Sequence[str]], Any]


class Written:
    """`detect` gives rows (box, place of its label, score), `classify` scores by label, `embed` lists of vectors.

    Detections are cut by what was asked for, as a server cuts them.
    """

    model = Model("written", "none", "1", ("detect", "classify", "similarity"), "0", {"box_threshold": THRESHOLD})

    def __init__(self, *, detect: Answer | None = None, classify: Answer | None = None, embed: Answer | None = None):
        self._detect, self._classify, self._embed = detect, classify, embed
        self.asked: list[tuple[str, ...]] = []

    def detect(self, picture, labels, *, box_threshold=None, max_detections=None, nms_iou=None):
        self.asked.append(tuple(labels))
        least = THRESHOLD if box_threshold is None else box_threshold
        rows = sorted(self._detect(picture, labels), key=lambda row: -row[2])
        found = [
            DetectionBody(box=box, label=labels[place], label_id=place, score=score, matched=[])
            for box, place, score in rows
            if score > least
        ]
        return ImageDetections(width=80, height=60, labels=list(labels), detections=found[:max_detections])

    def classify(self, picture, labels, *, templates=()):
        scores = enumerate(self._classify(picture, labels))
        ranked = sorted(scores, key=lambda one: -one[1])
        return [LabelScore(label=labels[place], label_id=place, score=score) for place, score in ranked]

    def embed(self, picture, texts):
        image, rows = self._embed(picture, texts)
        return Embeddings(images=[image], texts=rows)

    def close(self):
        pass


class WrittenAsked:
    """Stands where a command opens its model."""

    def __init__(self, served: Written) -> None:
        self._served = served

    def __call__(self, args: argparse.Namespace, **_: Any) -> "WrittenAsked":
        return self

    def __enter__(self) -> Written:
        return self._served

    def __exit__(self, *_: object) -> None:
        pass
