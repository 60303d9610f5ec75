"""The answer of a job from those of its parts, kept as JSON: as objects they would take ten times the memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from server.schemas import ClassifyAnswer, DetectAnswer, EmbedAnswer, ImageProblem, SimilarityAnswer, Timings

Answer = DetectAnswer | ClassifyAnswer | SimilarityAnswer | EmbedAnswer
# Members with a row for each image. No other JSON of an answer has their names before a bracket.
_ROWS = ("results", "similarity", "images")


class JobAnswer:
    """The answer to all images of a job; parts come in any order."""

    def __init__(self) -> None:
        self._rows: dict[int, Mapping[str, bytes]] = {}  # by the first image of the part
        self._problems: list[ImageProblem] = []
        self._timings: dict[str, float] = {}
        self._rest: Answer | None = None  # without rows
        self.size = 0  # bytes

    def add(self, first: int, answer: Answer) -> bool:
        """Add the part whose images begin at `first`; False where another model gave it than those before."""
        if self._rest is None:
            self._rest = answer.model_copy(update=_without_rows(answer))
        elif answer.model != self._rest.model:
            return False
        rows = {name: _json_of(holder, name) for holder, name in _rows_of(answer)}
        self._rows[first] = rows
        self._problems += [each.model_copy(update={"index": first + each.index}) for each in answer.problems or ()]
        for stage, value in answer.timings_ms.items():
            self._timings[stage] = self._timings.get(stage, 0.0) + value
        self.size += sum(map(len, rows.values()))
        return True

    def rendered(self) -> bytes:
        """The whole as JSON; timings are added up."""
        assert self._rest is not None, "a job has a part at least"
        timings: Timings = {stage: round(value, 3) for stage, value in self._timings.items()}
        problems = sorted(self._problems, key=lambda problem: problem.index) or None
        rest = self._rest.model_copy(update={"problems": problems, "timings_ms": timings})
        text = rest.model_dump_json(exclude_none=True).encode()
        for _, name in _rows_of(self._rest):
            rows = [part[name] for _, part in sorted(self._rows.items()) if part[name]]
            # In a string the quotes would be escaped.
            before, empty, after = text.partition(f'"{name}":[]'.encode())
            text = b"".join([before, empty[:-1], b",".join(rows), b"]", after])
        return text


def _rows_of(answer: Answer) -> Sequence[tuple[BaseModel, str]]:
    """The members of an answer, or of its embeddings, that have a row for each image."""
    holders: list[Any] = [answer, getattr(answer, "embeddings", None)]
    return [(holder, name) for holder in holders for name in _ROWS if hasattr(holder, name)]


def _without_rows(answer: Answer) -> dict[str, Any]:
    empty: dict[str, Any] = {name: [] for name in _ROWS if hasattr(answer, name)}
    if isinstance(answer, SimilarityAnswer) and answer.embeddings:
        empty["embeddings"] = answer.embeddings.model_copy(update={"images": []})
    return empty


def _json_of(holder: BaseModel, name: str) -> bytes:
    """The rows as JSON, without the brackets."""
    return holder.model_dump_json(include={name}, exclude_none=True).encode()[len(f'{{"{name}":[') : -len("]}")]
