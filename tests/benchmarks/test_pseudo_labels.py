"""Scenes and figures of the pseudo-label benchmark; its training runs take too long for a test."""

import json
from pathlib import Path

import pytest

from models.data.odvg import OdvgSet
from models.evaluation.dataset_queries import open_evaluation_set
from models.pseudo_labels.noun_phrases import noun_phrases
from tests.benchmarks import pseudo_labels


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudo_labels, "KINDS", {"boxed": (4, 1), "captioned": (12, 2), "measured": (4, 3)})
        pseudo_labels.prepare(out, pseudo_labels.SMALL_PACK, pseudo_labels.NAMES)
    return out


def test_the_noun_phrases_of_a_caption_are_the_things_in_its_scene(scenes: Path):
    records = OdvgSet(scenes / "true.jsonl", scenes / "captioned")
    captions = [json.loads(line)["caption"] for line in (scenes / "captioned-captions.jsonl").read_text().splitlines()]
    assert [records[row].caption for row in range(len(records))] == captions
    for row in range(len(records)):
        named = [records[row].caption[slice(*region.spans[0])] for region in records[row].regions]
        assert [phrase.text for phrase in noun_phrases(records[row].caption)] == named


def test_all_kinds_of_scenes_are_different_ones(scenes: Path):
    files = [(scenes / kind / "0000.png").read_bytes() for kind in pseudo_labels.KINDS]
    assert len(set(files)) == 3
    measured = open_evaluation_set(scenes / "measured.json", "coco", images=scenes / "measured")
    assert {name: one.count for name, one in measured.queries.items()} == {"detection": 4, "absent": 4}


def test_true_boxes_are_all_right_and_moved_ones_wrong(scenes: Path):
    lines = [json.loads(line) for line in (scenes / "true.jsonl").read_text().splitlines()]
    boxes = sum(len(region["bbox"]) for line in lines for region in line["grounding"]["regions"])
    assert pseudo_labels.quality(scenes / "true.jsonl", scenes / "true.jsonl").startswith(
        f"true.jsonl: {boxes} of {boxes} boxes are right; there are {boxes}"
    )
    for line in lines:
        for region in line["grounding"]["regions"]:
            region["bbox"] = [[x0 + 200, y0, x1 + 200, y1] for x0, y0, x1, y1 in region["bbox"]]
    moved = scenes / "moved.jsonl"
    moved.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pseudo_labels.quality(moved, scenes / "true.jsonl").startswith(f"moved.jsonl: 0 of {boxes} boxes")
