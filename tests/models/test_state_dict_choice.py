"""The weights in what training programs save: Lightning, open_clip, timm, averaged twins."""

from pickle import UnpicklingError

import pytest
import torch

from models.state_dict_choice import choose_state_dict
from models.tensor_records import StorageKey, StoredTensor

A, B, C = (StoredTensor(StorageKey(torch.float32, key), 0, (1,), (1,)) for key in "abc")
WEIGHTS = {"x.weight": A, "x.bias": B}
OTHERS = {"x.weight": C, "x.bias": C}


@pytest.mark.parametrize(
    "root",
    [
        WEIGHTS,
        {"model": WEIGHTS, "optimizer": {"state": {}}, "epoch": 3},
        {"epoch": 1, "name": "b32", "state_dict": WEIGHTS, "optimizer": {"a": C}},  # open_clip
        {"state_dict": WEIGHTS, "hyper_parameters": {"lr": 1}, "callbacks": {"EMA": {"ema": OTHERS}}},  # Lightning
        {"model_state_dict": WEIGHTS, "loss": C},
        {"model": {"state_dict": WEIGHTS, "name": "x"}},
        {"net": WEIGHTS},
        {"anything": WEIGHTS},
        {"model": {f"module.{name}": value for name, value in WEIGHTS.items()}},
        {"n_averaged": C} | {f"module.{name}": value for name, value in WEIGHTS.items()},  # torch.optim.swa_utils
    ],
)
def test_weights_are_found(root):
    assert choose_state_dict(root).tensors == WEIGHTS


@pytest.mark.parametrize("name", ["model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema"])
def test_averaged_twin_is_left_alone_with_a_word_and_taken_where_it_is_alone(name):
    both = choose_state_dict({name: OTHERS, "model": WEIGHTS})
    assert both.tensors == WEIGHTS
    assert both.sentence == f"the weights under 'model' are taken; left alone: {name}"
    alone = choose_state_dict({name: OTHERS, "epoch": 1})
    assert (alone.tensors, alone.sentence) == (OTHERS, None)


@pytest.mark.parametrize("name", ["model_ema", "ema"])
def test_averaged_twin_below_a_known_name_is_left_alone_too(name):
    assert choose_state_dict({name: {"module": OTHERS}, "state_dict": WEIGHTS}).tensors == WEIGHTS


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ([A], "holds a list"),
        ({}, "holds a dict"),
        (A, "holds a StoredTensor"),
        ({"epoch": 3, "a": A}, r"not tensors: epoch \(int\)"),
        ({"one": WEIGHTS, "two": OTHERS}, "several state dicts, none under a known name: one, two"),
        ({"optimizer": {"a": A}}, r"optimizer \(dict\)"),
    ],
)
def test_what_is_no_state_dict_is_told(root, told):
    with pytest.raises(UnpicklingError, match=told):
        choose_state_dict(root)


def test_dicts_within_one_another_end():
    root = {"model": {}}
    root["model"]["model"] = root
    with pytest.raises(UnpicklingError):
        choose_state_dict(root)
