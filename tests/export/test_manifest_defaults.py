import pytest

from export.manifest_defaults import ManifestDefaults, with_serving_section
from models.tokenizers import standard_file, text_rules
from server.contract.manifest import DetectionRules, Preprocessing

PREPROCESSING = Preprocessing(resize="shorter_longer", shorter=800, longer=1333, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def family():
    text = text_rules(standard_file("bert_wordpiece"), "phrases", max_tokens=256)
    detection = DetectionRules(box_threshold=0.35, text_threshold=0.25)
    return ManifestDefaults(preprocessing=PREPROCESSING, text=text, detection=detection)


def test_serving_section_changes_the_entries_it_names_and_no_others(family):
    rules = with_serving_section(family, {"preprocessing": {"shorter": 128}, "detection": {"nms_iou": 0.6}})
    assert (rules.preprocessing.shorter, rules.preprocessing.longer) == (128, 1333)
    assert rules.detection.nms_iou == 0.6
    assert rules.detection.box_threshold == 0.35
    assert rules.text == family.text


@pytest.mark.parametrize(
    ("serving", "named"),
    [
        ({"detection": {"box_treshold": 0.2}}, "box_treshold"),
        ({"labels": {}}, "labels"),
        ({"preprocessing": 3}, "prep"),
    ],
)
def test_serving_section_with_an_unknown_entry_is_refused(family, serving, named):
    with pytest.raises(ValueError, match=named):
        with_serving_section(family, serving)
