"""Measure the bundled models on photographs over HTTP, each against the figure it should reach.

    openset serve &
    python -m tests.benchmarks.photographs measured.json --url http://localhost:8000

measured.json names the photographs, with paths from its folder:

    {"naming": {"photographs": [{"file": "cow.webp", "label": "cow"}, ...], "cut-outs": [...]},
     "boxes": [{"file": "cow.webp", "label": "cow", "boxes": [[245, 288, 930, 704]]}, ...],
     "people": [{"file": "street.jpg"}, ...]}

The labels of a set compete with each other. A detector is asked for an object's own name and five of the others, where
its best detection should have that name and one of the boxes, and a score above the default threshold; and for six of
the others alone, where it should find nothing. Pictures of people are asked for `EVERYDAY`.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openset import Client
from openset.results import Detection

DETECTORS = ("grounding-dino-mini", "glip-mini")
EVERYDAY = ("person", "dog", "car", "chair", "tree", "cup", "bicycle", "table", "bird", "house")
OVERLAP, ABSENT = 0.5, 6
LEAST = 0.02  # threshold that the best detection is asked with
FLOORS = {
    "photographs": 0.6, "cut-outs": 0.3, "person first": 0.75, "best box and name": 0.6, "nothing where absent": 0.7,
}  # fmt: skip
Box = Sequence[float]


@dataclass(frozen=True)
class Figure:
    """A share of `total` pictures, the floor it should reach, and what came instead, by file."""

    name: str
    right: int
    total: int
    wrong: dict[str, str]

    def line(self) -> str:
        """The figure as a row."""
        floor = next((value for name, value in FLOORS.items() if self.name.startswith(name)), None)
        share = self.right / max(1, self.total)
        held = "" if floor is None else f"  floor {floor:.2f} {'held' if share >= floor else 'MISSED'}"
        return f"{self.name:52s} {self.right:3d} of {self.total:3d}  {share:.3f}{held}"


def counted(name: str, rows: Sequence[Any], wrong: Callable[[Any], str | None]) -> Figure:
    """Count the rows for which `wrong` returns nothing."""
    faults = {row["file"]: fault for row in rows if (fault := wrong(row)) is not None}
    return Figure(name, len(rows) - len(faults), len(rows), faults)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (sum(areas) - shared)


def others(row: Any, names: Sequence[str], count: int) -> list[str]:
    """Names that are not the row's own, always the same ones."""
    own = set(row["label"].split())
    pool = [name for name in names if name != row["label"] and not own & set(name.split())]
    return random.Random(row["file"]).sample(pool, min(count, len(pool)))


class Measurement:
    """All figures of a file of photographs, from a running server."""

    def __init__(self, client: Client, table: Path) -> None:
        self._client, self._folder = client, table.parent
        self._rows: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))

    def figures(self, *, detectors: Sequence[str], classifier: str) -> Iterator[Figure]:
        """Measure the parts that the file has."""
        for name, rows in self._rows.get("naming", {}).items():
            yield from self._naming(name, rows, classifier)
        people = self._rows.get("people", [])
        if people:
            yield counted(
                f"person first of {len(EVERYDAY)} names", people, lambda row: self._not_a_person(row, classifier)
            )
        boxed = self._rows.get("boxes", [])
        for detector in detectors:
            names = sorted({row["label"] for row in boxed})
            for name, least in (("best box and name", LEAST), ("  above the default threshold", None)):
                yield counted(
                    f"{name}, {detector}",
                    boxed,
                    lambda row, d=detector, n=names, least=least: self._misplaced(row, d, n, least),
                )
            yield counted(f"  any label: best box, {detector}", boxed, lambda row, d=detector: self._box_missed(row, d))
            silent = self._rows.get("silent", boxed)
            names = sorted({row["label"] for row in silent})
            yield counted(
                f"nothing where absent, {detector}", silent, lambda row, d=detector, n=names: self._alarm(row, d, n)
            )
            if people:
                yield counted(f"a person is boxed, {detector}", people, lambda row, d=detector: self._no_person(row, d))

    def _naming(self, name: str, rows: Sequence[Any], classifier: str) -> Iterator[Figure]:
        labels = sorted({row["label"] for row in rows})
        ranks = {row["file"]: self._ranked(row, labels, classifier) for row in rows}
        for most in (1, 5):
            yield counted(
                f"{name}, top-{most} of {len(labels)} names",
                rows,
                lambda row, most=most: (
                    None
                    if row["label"] in ranks[row["file"]][:most]
                    else f"{row['label']}: {', '.join(ranks[row['file']][:3])}"
                ),
            )

    def _ranked(self, row: Any, labels: Sequence[str], classifier: str) -> list[str]:
        answer = self._client.similarity(self._file(row), list(labels), model=classifier)
        order = sorted(zip(answer.similarity[0], labels, strict=True), reverse=True)
        return [label for _, label in order]

    def _not_a_person(self, row: Any, classifier: str) -> str | None:
        first = self._ranked(row, EVERYDAY, classifier)[0]
        return None if first == "person" else first

    def _detections(
        self, row: Any, labels: Sequence[str], detector: str, least: float | None = None
    ) -> list[Detection]:
        asked = {} if least is None else {"box_threshold": least}
        answer = self._client.detect(self._file(row), labels=list(labels), model=detector, **asked)
        found = answer.results[0].detections
        return sorted(found, key=lambda one: -one.score)

    def _misplaced(self, row: Any, detector: str, names: Sequence[str], least: float | None) -> str | None:
        asked = sorted([row["label"], *others(row, names, ABSENT - 1)])
        found = self._detections(row, asked, detector, least)
        if not found:
            return "nothing found"
        best = found[0]
        hit = max(overlap(best.box, box) for box in row["boxes"])
        return (
            None if best.label == row["label"] and hit >= OVERLAP else f"{best.label} {best.score:.2f}, IoU {hit:.2f}"
        )

    def _box_missed(self, row: Any, detector: str) -> str | None:
        found = self._detections(row, [row["label"]], detector, LEAST)
        if not found:
            return "nothing found"
        hit = max(overlap(found[0].box, box) for box in row["boxes"])
        return None if hit >= OVERLAP else f"IoU {hit:.2f}"

    def _alarm(self, row: Any, detector: str, names: Sequence[str]) -> str | None:
        found = self._detections(row, others(row, names, ABSENT), detector)
        return f"{found[0].label} {found[0].score:.2f}" if found else None

    def _no_person(self, row: Any, detector: str) -> str | None:
        return None if self._detections(row, ["person"], detector) else "nothing found"

    def _file(self, row: Any) -> Path:
        return self._folder / row["file"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Measure a server's models on photographs.")
    parser.add_argument("table", type=Path, help="JSON file of the photographs")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--classifier", default="clip-mini")
    parser.add_argument("--detectors", nargs="*", default=DETECTORS)
    parser.add_argument("--wrong", action="store_true", help="also print what went wrong")
    args = parser.parse_args(arguments)
    with Client(args.url) as client:
        for figure in Measurement(client, args.table).figures(detectors=args.detectors, classifier=args.classifier):
            print(figure.line(), flush=True)
            if args.wrong:
                print("".join(f"    {file}: {fault}\n" for file, fault in figure.wrong.items()), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
