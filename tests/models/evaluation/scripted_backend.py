"""A backend with answers written by the test, in place of a served model."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.data.images import PictureFile
from models.evaluation.backends import Model
from models.evaluation.metrics import Metric, MetricResult, Query
from server.schemas import DetectionBody, Embeddings, ImageDetections, LabelScore

THRESHOLD = 0.5
Answer = Callable[[bytes, Sequence[str]], Any]


class ScriptedBackend:
    """`detect` returns rows (box, index of its label, score), `classify` scores by label, `embed` lists of vectors.

    Detections are cut by threshold and count, as a server cuts them.
    """

    model = Model("scripted", "none", "1", ("detect", "classify", "similarity"), "0", {"box_threshold": THRESHOLD})

    def __init__(self, *, detect: Answer | None = None, classify: Answer | None = None, embed: Answer | None = None):
        self._detect, self._classify, self._embed = detect, classify, embed
        self.asked: list[tuple[str, ...]] = []

    def detect(self, image, labels, *, box_threshold=None, max_detections=None, nms_iou=None):
        self.asked.append(tuple(labels))
        least = THRESHOLD if box_threshold is None else box_threshold
        rows = sorted(self._detect(image, labels), key=lambda row: -row[2])
        found = [
            DetectionBody(box=box, label=labels[index], label_id=index, score=score, matched=[])
            for box, index, score in rows
            if score > least
        ]
        return ImageDetections(width=80, height=60, labels=list(labels), detections=found[:max_detections])

    def classify(self, image, labels, *, templates=()):
        scores = enumerate(self._classify(image, labels))
        ranked = sorted(scores, key=lambda item: -item[1])
        return [LabelScore(label=labels[index], label_id=index, score=score) for index, score in ranked]

    def embed(self, image, texts):
        vector, rows = self._embed(image, texts)
        return Embeddings(images=[vector], texts=rows)

    def close(self):
        pass


class OpensScripted:
    """Replaces a command's opening of its backend."""

    def __init__(self, backend: ScriptedBackend) -> None:
        self._backend = backend

    def __call__(self, args: argparse.Namespace, **_: Any) -> "OpensScripted":
        return self

    def __enter__(self) -> ScriptedBackend:
        return self._backend

    def __exit__(self, *_: object) -> None:
        pass


LEFT, RIGHT, BOTH, AWAY = (0, 0, 10, 10), (30, 0, 40, 10), (0, 0, 40, 10), (60, 60, 70, 70)


def query(*texts: str, target: Any = None) -> Query:
    return Query(PictureFile(Path("a.png")), "set.json: 1", texts, None, target)


def boxes(*rows: Sequence[float]) -> np.ndarray:
    return np.asarray(rows, np.float32)


def measured(metric: Metric, backend: ScriptedBackend, *queries: Query) -> MetricResult:
    """The metric's result after the backend has answered all queries."""
    for one in queries:
        metric.add(one, metric.ask(backend, one, b""))
    return metric.result(backend.model)
