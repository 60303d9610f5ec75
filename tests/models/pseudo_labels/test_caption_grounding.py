from models.pseudo_labels.caption_grounding import GroundingFilter, ground_caption
from tests.models.evaluation.scripted_backend import ScriptedBackend

BOX, OTHER = (1, 2, 30, 40), (40, 2, 60, 40)


def record(caption, rows, **criteria):
    backend = ScriptedBackend(detect=lambda picture, labels: [row for row in rows if row[1] < len(labels)])
    return ground_caption(backend, b"", caption, GroundingFilter(**criteria), filename="a.png"), backend


def test_confident_boxes_become_regions_with_the_spans_of_their_phrases():
    line, backend = record("a dog near a red house", [(BOX, 0, 0.9), (OTHER, 1, 0.6), (OTHER, 0, 0.4)])
    assert backend.asked == [("dog", "red house")]
    assert (line["filename"], line["height"], line["width"]) == ("a.png", 60, 80)
    assert line["grounding"] == {
        "caption": "a dog near a red house",
        "regions": [
            {"phrase": "dog", "bbox": [list(BOX)], "tokens_positive": [[2, 5]], "scores": [0.9]},
            {"phrase": "red house", "bbox": [list(OTHER)], "tokens_positive": [[13, 22]], "scores": [0.6]},
        ],
    }


def test_a_repeated_phrase_is_detected_once_and_has_both_spans():
    line, backend = record("a dog and a dog", [(BOX, 0, 0.9), (OTHER, 0, 0.8)])
    assert backend.asked == [("dog",)]
    (region,) = line["grounding"]["regions"]
    assert (region["tokens_positive"], len(region["bbox"])) == ([[2, 5], [12, 15]], 2)


def test_without_a_confident_box_there_is_no_record():
    assert record("a dog", [(BOX, 0, 0.4)])[0] is None
    assert record("a dog", [(BOX, 0, 0.4)], threshold=0.3)[0] is not None


def test_a_caption_without_a_noun_sends_no_request():
    line, backend = record("and so on!", [])
    assert line is None
    assert backend.asked == []


def test_a_phrase_with_too_many_boxes_is_dropped():
    rows = [((x, 0, x + 5, 5), 0, 0.9) for x in range(4)]
    assert record("a dog", rows, max_boxes=3)[0] is None
    assert len(record("a dog", rows, max_boxes=4)[0]["grounding"]["regions"][0]["bbox"]) == 4


def test_complete_drops_partly_grounded_captions():
    assert record("a dog near a red house", [(BOX, 0, 0.9)])[0] is not None
    assert record("a dog near a red house", [(BOX, 0, 0.9)], complete=True)[0] is None


def test_boxes_without_an_area_are_dropped():
    assert record("a dog", [((5, 5, 5, 9), 0, 0.9)])[0] is None
