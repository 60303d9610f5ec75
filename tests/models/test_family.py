"""Serving rules of a family, and the laziness of its record."""

import subprocess
import sys

import pytest

from models.family import ServingRules, lazy
from models.tokenizers import standard_file, text_rules
from server.contract.manifest import DetectionRules, Preprocessing

PREPROCESSING = Preprocessing(resize="shorter_longer", shorter=800, longer=1333, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def family_rules():
    text = text_rules(standard_file("bert_wordpiece"), "phrases", max_tokens=256)
    detection = DetectionRules(box_threshold=0.35, text_threshold=0.25)
    return ServingRules(preprocessing=PREPROCESSING, text=text, detection=detection)


def test_serving_section_changes_the_entries_it_names_and_no_others(family_rules):
    rules = family_rules.overridden({"preprocessing": {"shorter": 128}, "detection": {"nms_iou": 0.6}})
    assert (rules.preprocessing.shorter, rules.preprocessing.longer) == (128, 1333)
    assert rules.detection.nms_iou == 0.6
    assert rules.detection.box_threshold == 0.35
    assert rules.text == family_rules.text


@pytest.mark.parametrize(
    ("serving", "named"),
    [
        ({"detection": {"box_treshold": 0.2}}, "box_treshold"),
        ({"labels": {}}, "labels"),
        ({"preprocessing": 3}, "prep"),
    ],
)
def test_serving_section_with_an_unknown_entry_is_refused(family_rules, serving, named):
    with pytest.raises(ValueError, match=named):
        family_rules.overridden(serving)


def test_lazy_function_is_imported_at_its_first_call():
    join = lazy("posixpath:join")
    assert join("a", "b") == "a/b"


def test_registry_imports_neither_export_nor_training():
    code = (
        "import sys, models.registry\n"
        "print([m for m in sys.modules if m.startswith(('export', 'onnx', 'models.training', 'models.synthetic'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
