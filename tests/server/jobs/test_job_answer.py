"""The answer of a job is the one that a request with all its images would get."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.job_answer import JobAnswer
from server.schemas import ClassifyAnswer, DetectAnswer, EmbedAnswer, SimilarityAnswer

MODEL = {"name": "a", "family": "b", "version": "1"}
# Texts that look like the places where rows are put in.
TEXTS = st.sampled_from(["dog", '"results":[]', '"images":[]', "]", '\\"similarity\\":[]', "é"]) | st.text(max_size=5)
ROWS: dict[type[Any], Any] = {
    DetectAnswer: st.fixed_dictionaries(
        {"width": st.integers(0, 9), "height": st.just(3), "labels": st.lists(TEXTS, max_size=2),
         "detections": st.lists(st.fixed_dictionaries({
             "box": st.just([0.0, 1.0, 2.0, 3.0]), "label": TEXTS, "label_id": st.just(0), "score": st.just(0.5),
             "matched": st.just([[0, 1]])}), max_size=2)}
    ),
    ClassifyAnswer: st.fixed_dictionaries(
        {"scores": st.lists(st.fixed_dictionaries({"label": TEXTS, "label_id": st.just(1), "score": st.just(0.25)}))}
    ),
    SimilarityAnswer: st.lists(st.sampled_from([0.5, -1.0]), max_size=3),
    EmbedAnswer: st.lists(st.sampled_from([0.5, -1.0]), max_size=3),
}  # fmt: skip


def answer_of(kind, rows, texts, *, problems=(), ms=1.0, embeddings=True) -> Any:
    fields: dict[str, Any] = {"model": MODEL, "timings_ms": {"infer": ms}}
    fields["problems"] = [
        {"index": index, "type": "t", "title": "u", "status": 415, "detail": "d"} for index in problems
    ] or None
    if kind is SimilarityAnswer:
        fields |= {"similarity": rows, "logit_scale": 10}
        if embeddings:
            fields["embeddings"] = {"images": rows, "texts": [[1.0]]}
    elif kind is EmbedAnswer:
        fields |= {"images": rows, "texts": [[1.0]]}
    else:
        fields |= {"results": rows, "warnings": [{"field": text, "reason": text} for text in texts] or None}
    return kind.model_validate(fields)


@given(st.sampled_from(list(ROWS)), st.data(), st.lists(TEXTS, max_size=2), st.booleans())
def test_parts_in_any_order_make_the_answer_to_all_images(kind, data, texts, embeddings):
    parts = data.draw(st.lists(st.lists(ROWS[kind], min_size=1, max_size=3), min_size=1, max_size=4))
    firsts = [sum(map(len, parts[:place])) for place in range(len(parts))]
    joined = JobAnswer()
    for place in data.draw(st.permutations(range(len(parts)))):
        assert joined.add(firsts[place], answer_of(kind, parts[place], texts, problems=[0], embeddings=embeddings))
    rows = [row for part in parts for row in part]
    whole = answer_of(kind, rows, texts, problems=firsts, ms=1.0 * len(parts), embeddings=embeddings)
    assert json.loads(joined.rendered()) == json.loads(whole.model_dump_json(exclude_none=True))


def test_texts_without_images_are_one_part():
    joined = JobAnswer()
    joined.add(0, answer_of(EmbedAnswer, [], []))
    assert json.loads(joined.rendered())["images"] == []


@pytest.mark.parametrize("kind", ROWS)
def test_size_grows_with_the_rows(kind):
    joined, row = JobAnswer(), {DetectAnswer: {"width": 1, "height": 1, "labels": [], "detections": []},
                                ClassifyAnswer: {"scores": []}}.get(kind, [1.0])  # fmt: skip
    joined.add(0, answer_of(kind, [row], []))
    before = joined.size
    joined.add(1, answer_of(kind, [row], []))
    assert joined.size == 2 * before > 0


def test_part_of_another_model_is_refused():
    joined = JobAnswer()
    assert joined.add(0, answer_of(EmbedAnswer, [[1.0]], []))
    other = answer_of(EmbedAnswer, [[1.0]], [])
    assert not joined.add(1, other.model_copy(update={"model": other.model.model_copy(update={"version": "2"})}))
