"""Post-processing: exact labels, strict thresholds, boxes in pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.contract.manifest import DetectionRules
from server.contract.postprocess import Thresholds, class_scores, detections, iou_matrix, label_scores, nms, to_pixels
from server.contract.text import Phrase

RULES = DetectionRules(box_threshold=0.3, text_threshold=0.2)
# [CLS] red car . dog . [SEP]
PROMPT = SimpleNamespace(
    labels=(Phrase("red car"), Phrase("Dog")),
    first_label=0,
    token_label=np.array([-1, 0, 0, -1, 1, -1, -1]),
    token_span=np.array([[0, 0], [0, 3], [4, 7], [0, 0], [0, 3], [0, 0], [0, 0]]),
)
SCORES = np.array(
    [[0.9, 0.1, 0.5, 0.9, 0.2, 0.9, 0.9], [0, 0.1, 0.1, 0, 0.8, 0, 0], [0, 0.3, 0.3, 0, 0.3, 0, 0]], np.float32
)
BOXES = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)


ALL_LABELS = RULES.model_copy(update={"labels_per_box": "all"})
INCLUSIVE = RULES.model_copy(update={"box_edges": "inclusive", "labels_per_box": "all"})


def detect(scores=SCORES, rules=RULES, *, boxes=BOXES, size=(100, 200), input_size=None, **changes):
    thresholds = Thresholds(
        **({"box_threshold": 0.3, "text_threshold": 0.2, "nms_iou": None, "max_detections": 9} | changes)
    )
    return detections(scores, boxes, PROMPT, size=size, rules=rules, thresholds=thresholds, input_size=input_size)


def dogs(boxes_xyxy, size):
    """Scores, best first, and boxes cxcywh in 0..1 of a picture of `size`, that put a dog at each of the boxes."""
    scores = np.zeros((len(boxes_xyxy), 7), np.float32)
    scores[:, 4] = np.linspace(0.9, 0.5, len(boxes_xyxy))
    corners = np.asarray(boxes_xyxy, np.float64) / np.asarray([size[1], size[0]] * 2)
    boxes = np.concatenate([corners[:, :2] + corners[:, 2:], 2 * (corners[:, 2:] - corners[:, :2])], axis=1) / 2
    return {"scores": scores, "boxes": boxes.astype(np.float32)}


def inclusive_iou(a, b):
    """As written in microsoft/GLIP's csrc/cuda/ml_nms.cu, in float64."""
    a, b = [float(edge) for edge in a], [float(edge) for edge in b]
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
    inter = width * height
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return inter / (sum(areas) - inter)


def continuous_iou(a, b):
    """As ever: float32, 0 where both are empty."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = max(width, np.float32(0)) * max(height, np.float32(0))
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    union = area_a + area_b - inter
    return inter / union if union > 0 else np.float32(0)


def nms_by_hand(boxes, label_ids, threshold, overlap):
    """Greedy: a box stays unless one that stays, better and of its label, overlaps it by more than `threshold`."""
    stay = []
    for row, box in enumerate(boxes):
        rivals = [other for other in stay if label_ids[other] == label_ids[row]]
        if not any(overlap(boxes[other], box) > threshold for other in rivals):
            stay.append(row)
    return stay


def test_best_first_with_the_label_as_written():
    assert [(found.label, found.label_id) for found in detect()] == [("Dog", 1), ("red car", 0)]


def test_special_tokens_and_separators_never_score():
    assert max(found.score for found in detect()) == pytest.approx(0.8)


def test_threshold_is_strict():
    assert len(detect(box_threshold=np.float32(0.3))) == 2


def test_boxes_are_pixels_of_the_image():
    assert detect()[0].box == (0, 0, 100, 50)
    assert detect()[1].box == (50, 25, 150, 75)


def test_matched_words_are_those_above_the_text_threshold():
    assert [found.matched for found in detect()] == [((0, 3),), ((4, 7),)]
    assert detect(text_threshold=0.05)[1].matched == ((0, 3), (4, 7))


@given(
    scores=hnp.arrays(np.float32, (9, 7), elements=st.floats(0, 1, width=32)),
    boxes=hnp.arrays(np.float32, (9, 4), elements=st.floats(0, 1, width=32)),
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    asked=st.fixed_dictionaries({"nms_iou": st.none() | st.floats(0.1, 1), "max_detections": st.integers(1, 9)}),
    rules=st.sampled_from([RULES, ALL_LABELS, INCLUSIVE]),
)
def test_higher_threshold_gives_the_beginning_of_a_lower_ones_answer(scores, boxes, thresholds, asked, rules):
    """What lets a client move the threshold without asking again; the page does."""
    low, high = thresholds
    least = detect(scores, rules, boxes=boxes, box_threshold=low, **asked)
    kept = [found for found in least if found.score > np.float32(high)]
    assert kept == detect(scores, rules, boxes=boxes, box_threshold=high, **asked)


def test_max_detections_keeps_the_best():
    assert [found.label for found in detect(max_detections=1)] == ["Dog"]


def test_a_box_has_its_best_label_only_unless_the_rules_say_all():
    scores = SCORES.copy()
    scores[0, 4] = 0.6  # the first box is a red car (0.5), and more so a dog
    assert [(found.label, found.score) for found in detect(scores)] == [
        ("Dog", pytest.approx(0.8)), ("Dog", pytest.approx(0.6)),
    ]  # fmt: skip
    found = detect(scores, ALL_LABELS)
    assert [(d.label, d.score) for d in found] == [
        ("Dog", pytest.approx(0.8)), ("Dog", pytest.approx(0.6)), ("red car", pytest.approx(0.5)),
    ]  # fmt: skip
    assert found[1].box == found[2].box == (50, 25, 150, 75)
    assert [d.matched for d in found] == [((0, 3),), ((0, 3),), ((4, 7),)]


def test_every_label_of_a_box_is_held_to_the_threshold():
    assert [found.label for found in detect(SCORES, ALL_LABELS, box_threshold=0.15)] == [
        "Dog", "red car", "red car", "Dog", "Dog",
    ]  # fmt: skip
    assert len(detect(SCORES, ALL_LABELS, box_threshold=np.float32(0.2))) == 4  # strictly above


@given(scores=hnp.arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32)), limit=st.integers(1, 6))
def test_max_detections_counts_over_all_labels(scores, limit):
    everything = detect(scores, ALL_LABELS, box_threshold=0, max_detections=99)
    assert [found.score for found in everything] == sorted((found.score for found in everything), reverse=True)
    assert detect(scores, ALL_LABELS, box_threshold=0, max_detections=limit) == everything[:limit]


def test_mean_reduction_averages_a_labels_tokens():
    rules = RULES.model_copy(update={"token_reduction": "mean"})
    np.testing.assert_allclose(label_scores(SCORES, PROMPT, rules)[0], [0.3, 0.2], rtol=1e-6)


def test_nms_drops_the_worse_of_two_with_one_label_only():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]], np.float32)
    assert nms(boxes, np.array([0, 0, 1]), 0.5, limit=9).tolist() == [0, 2]
    assert nms(boxes, np.array([0, 0, 1]), 0.95, limit=9).tolist() == [0, 1, 2]


# Whole pixels and few of them: all areas are exact in float32, and boxes often meet the threshold exactly.
EDGES = hnp.arrays(np.int64, st.tuples(st.integers(1, 24), st.just(4)), elements=st.integers(0, 15))
IOUS = st.sampled_from([0.25, 0.5, 0.6, 0.75])


@given(edges=EDGES, threshold=IOUS, data=st.data())
def test_inclusive_nms_is_that_of_glip_in_float64(edges, threshold, data):
    boxes = np.concatenate([np.minimum(edges[:, :2], edges[:, 2:]), np.maximum(edges[:, :2], edges[:, 2:])], axis=1)
    label_ids = data.draw(hnp.arrays(np.intp, len(boxes), elements=st.integers(0, 2)))
    wanted = nms_by_hand(boxes, label_ids, threshold, inclusive_iou)
    assert nms(boxes.astype(np.float32), label_ids, threshold, limit=99, edge=1).tolist() == wanted
    assert nms(boxes.astype(np.float32), label_ids, threshold, limit=3, edge=1).tolist() == wanted[:3]


@given(
    scores=hnp.arrays(np.float32, (12, 7), elements=st.floats(0, 1, width=32)),
    boxes=hnp.arrays(np.float32, (12, 4), elements=st.floats(0, 1, width=32)),
    threshold=st.none() | IOUS,
    reduction=st.sampled_from(["max", "mean"]),
    input_size=st.none() | st.just((64, 128)),
)
def test_answers_under_the_rules_of_old_are_unchanged(scores, boxes, threshold, reduction, input_size):
    rules = RULES.model_copy(update={"token_reduction": reduction})
    labels = label_scores(scores, PROMPT, rules)
    kept = [query for query in np.argsort(-labels.max(1), kind="stable") if labels[query].max() > np.float32(0.3)]
    pixels, label_ids = to_pixels(boxes[kept], (100, 200)), labels[kept].argmax(1)
    rows = range(len(kept)) if threshold is None else nms_by_hand(pixels, label_ids, threshold, continuous_iou)
    wanted = [(tuple(pixels[row].tolist()), label_ids[row], labels[kept[row]].max()) for row in rows]
    found = detect(scores, rules, boxes=boxes, nms_iou=threshold, input_size=input_size)
    assert [(d.box, d.label_id, d.score) for d in found] == wanted[:9]


def test_inclusive_edges_make_boxes_overlap_more():
    boxes = dogs([[0, 0, 9, 9], [5, 0, 14, 9]], (16, 16))  # 10 pixels wide each, 5 of them shared: a third
    half = {"size": (16, 16), "nms_iou": 0.32}
    assert len(detect(rules=INCLUSIVE, **boxes, **half)) == 1
    assert len(detect(rules=ALL_LABELS, **boxes, **half)) == 2  # 4 of 14 otherwise


def test_an_overlap_of_just_the_threshold_suppresses_nothing():
    boxes = dogs([[0, 0, 9, 9], [0, 0, 9, 4]], (16, 16))  # half of the first, exactly
    assert len(detect(rules=INCLUSIVE, **boxes, size=(16, 16), nms_iou=0.5)) == 2
    assert len(detect(rules=INCLUSIVE, **boxes, size=(16, 16), nms_iou=0.49)) == 1


def test_pixels_are_those_of_the_models_input_when_edges_count():
    boxes = dogs([[0, 0, 90, 90], [50, 0, 140, 90]], (160, 160))
    # shared in a 160 pixel input: 41 of 141 columns; in one of 16: 5 of 15
    assert len(detect(rules=INCLUSIVE, **boxes, size=(160, 160), nms_iou=0.3)) == 2
    assert len(detect(rules=INCLUSIVE, **boxes, size=(160, 160), input_size=(16, 16), nms_iou=0.3)) == 1


def test_inclusive_boxes_end_at_the_last_pixel_and_are_scaled_to_the_picture_afterwards():
    boxes = dogs([[-20, -20, 80, 80], [10, 5, 20, 10]], (32, 64))
    found = detect(rules=INCLUSIVE, **boxes, size=(96, 128), input_size=(32, 64))
    np.testing.assert_allclose(found[0].box, [0, 0, 63 * 2, 31 * 3])
    np.testing.assert_allclose(found[1].box, [20, 15, 40, 30], rtol=1e-6)
    assert detect(rules=INCLUSIVE, **boxes, size=(32, 64))[0].box == (0, 0, 63, 31)  # the input was the picture


def test_inclusive_box_narrower_than_a_pixel_becomes_a_line():
    found = detect(rules=INCLUSIVE, **dogs([[10.25, 5, 9.75, 10]], (32, 64)), size=(64, 128), input_size=(32, 64))
    np.testing.assert_allclose(found[0].box, [20.5, 10, 20.5, 20], rtol=1e-6)


@given(boxes=hnp.arrays(np.float32, (6, 4), elements=st.floats(-2, 2, width=32)))
def test_inclusive_boxes_stay_inside_the_picture(boxes):
    scores = np.full((6, 7), 0.9, np.float32)
    for found in detect(scores, INCLUSIVE, boxes=boxes, size=(60, 70), input_size=(30, 70)):
        x0, y0, x1, y1 = found.box
        assert 0 <= x0 <= x1 <= 69
        assert 0 <= y0 <= y1 <= 58


@given(boxes=hnp.arrays(np.float32, (6, 4), elements=st.floats(0, 1, width=32)))
def test_boxes_stay_inside_the_image(boxes):
    pixels = to_pixels(boxes, (30, 70))
    assert (pixels >= 0).all()
    assert (pixels <= [70, 30, 70, 30]).all()
    assert (pixels[:, 2:] >= pixels[:, :2]).all()
    iou = iou_matrix(pixels, pixels)
    np.testing.assert_allclose(iou, iou.T)
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()


def test_class_scores_are_a_softmax_or_independent():
    cosine = np.array([[0.3, 0.1]], np.float32)
    np.testing.assert_allclose(
        class_scores(cosine, logit_scale=10, logit_bias=0, multi_label=False).sum(1), 1, rtol=1e-6
    )
    np.testing.assert_allclose(
        class_scores(cosine, logit_scale=10, logit_bias=-2, multi_label=True), 1 / (1 + np.exp([[-1, 1]])), rtol=1e-6
    )


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=32)))
def test_class_scores_are_finite_at_a_high_scale(cosine):
    for multi_label in (False, True):
        assert np.isfinite(class_scores(cosine, logit_scale=1000, logit_bias=0, multi_label=multi_label)).all()


def found(**changes):
    return [(each.label_id, round(each.score, 2)) for each in detect(**changes)]


def test_label_has_its_own_threshold_or_that_of_all():
    assert found(box_threshold=0.1) == [(1, 0.8), (0, 0.5), (0, 0.3)]
    assert found(box_threshold=0.1, label_thresholds=(0.4, None)) == [(1, 0.8), (0, 0.5)]
    assert found(box_threshold=0.1, label_thresholds=(None, 0.85)) == [(0, 0.5), (0, 0.3)]
    assert found(box_threshold=0.9, label_thresholds=(0.4, 0.1)) == [(1, 0.8), (0, 0.5)]


def test_label_below_its_threshold_does_not_make_room_for_the_next():
    assert found(box_threshold=0.1, label_thresholds=(0.6, None)) == [(1, 0.8)]
    assert found(box_threshold=0.1, label_thresholds=(0.6, None), rules=ALL_LABELS)[:2] == [(1, 0.8), (1, 0.3)]


def test_excluded_label_is_never_found_and_hides_no_other():
    assert found(box_threshold=0.1, excluded=frozenset({0})) == [(1, 0.8), (1, 0.3), (1, 0.2)]
    assert found(box_threshold=0.0, excluded=frozenset({0, 1})) == []


def test_box_suppresses_those_of_other_labels_only_where_it_may():
    same = np.tile(BOXES[:1], (3, 1))
    assert found(boxes=same, box_threshold=0.1, nms_iou=0.5) == [(1, 0.8), (0, 0.5)]
    assert found(boxes=same, box_threshold=0.1, nms_iou=0.5, nms_across_labels=True) == [(1, 0.8)]
