"""Measure a running server: post the pictures of an evaluation set, compare its answers with what was drawn.

python -m models.training.evaluate SET --url http://localhost:8000
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from models.training.average_precision import Found, Truth, mean_average_precision
from models.training.evaluation_set import Picture, read_set

TIMEOUT_SECONDS = 120
LOWEST_SCORE = 0.02  # average precision needs the uncertain detections as well


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    pictures: int
    seconds: float


class Client:
    """Asks a server with one picture at a time."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)

    def ask(self, path: str, picture: Path, **fields: str | Sequence[str]) -> dict[str, Any]:
        """The first result of POST `path` with a picture and form fields; httpx.HTTPStatusError where it is refused."""
        files = {"image": (picture.name, picture.read_bytes(), "image/png")}
        answer = self._client.post(path, files=files, data=fields)
        answer.raise_for_status()
        results: list[dict[str, Any]] = answer.json()["results"]
        return results[0]


def measure_classification(
    client: Client, pictures: Sequence[Picture], names: Sequence[str], model: str
) -> list[Figure]:
    """Top-1 and top-5 over all `names`, on pictures of one object."""
    started = time.monotonic()
    first = fifth = 0
    for picture in pictures:
        scores = client.ask("/classify", picture.file, model=model, labels=names)["scores"]
        ranked = [score["label"] for score in scores]
        first += ranked[0] == picture.objects[0].label
        fifth += picture.objects[0].label in ranked[:5]
    seconds, count = time.monotonic() - started, len(pictures)
    return [Figure("top-1", first / count, count, seconds), Figure("top-5", fifth / count, count, seconds)]


def measure_detection(client: Client, pictures: Sequence[Picture], model: str) -> list[Figure]:
    """AP50, mean over labels, and the same for boxes of any label; prompts are those of the set."""
    started = time.monotonic()
    truths: list[Truth] = []
    found: list[Found] = []
    for number, picture in enumerate(pictures):
        truths += [Truth(number, item.label, item.box) for item in picture.objects if item.label in picture.prompt]
        answer = client.ask(
            "/detect", picture.file, model=model, labels=picture.prompt, box_threshold=str(LOWEST_SCORE)
        )
        for detection in answer["detections"]:
            found.append(Found(number, detection["label"], tuple(detection["box"]), detection["score"]))
    seconds, count = time.monotonic() - started, len(pictures)
    return [
        Figure("AP50", mean_average_precision(truths, found), count, seconds),
        Figure("AP50, any label", mean_average_precision(truths, found, by_label=False), count, seconds),
    ]


def measure_silence(client: Client, pictures: Sequence[Picture], model: str) -> Figure:
    """The share of scenes in which nothing is found, at the model's own threshold, when all that is named is absent."""
    started = time.monotonic()
    silent = 0
    for picture in pictures:
        present = {item.label for item in picture.objects}
        absent = [label for label in picture.prompt if label not in present]
        silent += not client.ask("/detect", picture.file, model=model, labels=absent)["detections"]
    return Figure("silent when all is absent", silent / len(pictures), len(pictures), time.monotonic() - started)


def table(figures: Sequence[Figure]) -> str:
    """The figures as Markdown."""
    rows = [f"| {f.name} | {f.value:.3f} | {f.pictures} | {f.pictures / f.seconds:.1f} |" for f in figures]
    return "\n".join(["| figure | value | pictures | pictures/s |", "| --- | --- | --- | --- |", *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Measure a running server on an evaluation set.")
    parser.add_argument("set", type=Path, help="folder that models.training.evaluation_set wrote")
    parser.add_argument("--url", default="http://localhost:8000", help="address of the server")
    parser.add_argument("--classifier", default="clip-mini", help="model asked to classify")
    parser.add_argument("--detector", default="grounding-dino-mini", help="model asked to detect")
    chosen = parser.parse_args(arguments)
    found = read_set(chosen.set)
    client = Client(chosen.url)
    figures: list[Figure] = []
    if found.single:
        figures += measure_classification(client, found.single, found.names, chosen.classifier)
    if found.scenes:
        figures += measure_detection(client, found.scenes, chosen.detector)
        figures.append(measure_silence(client, found.scenes, chosen.detector))
    print(table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
