import pytest

from models.training.param_groups import batch_norms, freeze, param_groups, rate_factors
from tests.models import small_clip, small_glip, small_grounding_dino


def test_the_longest_beginning_decides_the_rate():
    names = ["backbone.stem", "backbone.stages.0.w", "head.w"]
    assert rate_factors(names, {"backbone.": 0.1, "backbone.stages.": 0.5}, 1.0) == {
        "backbone.stem": 0.1,
        "backbone.stages.0.w": 0.5,
        "head.w": 1.0,
    }


def test_a_beginning_that_fits_nothing_is_named():
    with pytest.raises(ValueError, match=r"rates: no parameter's name begins with 'bert\.'"):
        rate_factors(["backbone.w"], {"bert.": 0.1}, 1.0)
    with pytest.raises(
        ValueError, match=r"frozen: no parameter's name begins with 'bert\.'; parts are \['image_tower\."
    ):
        freeze(small_clip.random_model(small_clip.VIT), ["bert."])


def test_batch_norms_of_any_depth_are_found_and_other_norms_are_not():
    model = small_grounding_dino.random_model(small_grounding_dino.RESNET)
    kept = [name for name, _ in model.named_buffers() if name.endswith("running_var")]
    assert len(batch_norms(model)) == len(kept) > 5
    assert batch_norms(small_grounding_dino.random_model(small_grounding_dino.SWIN)) == []


def test_layers_learn_the_more_slowly_the_deeper_they_lie():
    model = small_clip.random_model(small_clip.VIT)  # two layers in each tower
    found = rate_factors([name for name, _ in model.named_parameters()], {}, 0.5)
    for tower in ("image_tower", "text_tower"):
        assert found[f"{tower}.transformer.blocks.1.norm1.weight"] == 1.0
        assert found[f"{tower}.transformer.blocks.0.norm1.weight"] == 0.5
        assert found[f"{tower}.positions"] == 0.25
        assert found[f"{tower}.projection.weight"] == 1.0
    assert found["logit_scale"] == 1.0


@pytest.mark.parametrize("family", [small_glip, small_grounding_dino])
def test_the_backbones_of_detectors_are_towers_too(family):
    model = family.random_model(family.SWIN)
    found = rate_factors([name for name, _ in model.named_parameters()], {}, 0.5)
    swin = sorted({value for name, value in found.items() if name.startswith("backbone.")})
    bert = sorted({value for name, value in found.items() if name.startswith("text_backbone.")})
    assert swin[-1] == 1.0
    assert len(swin) == 1 + 6  # six blocks and the patches below them
    assert bert == [0.25, 0.5, 1.0]
    rest = {value for name, value in found.items() if not name.startswith(("backbone.", "text_backbone."))}
    assert rest == {1.0}


def test_frozen_parameters_are_in_no_group_and_vectors_do_not_decay():
    model = small_clip.random_model(small_clip.VIT)
    modules = freeze(model, ["text_tower."])
    assert model.text_tower in modules
    found = param_groups(model.named_parameters(), {"logit_scale": 0.5}, learning_rate=0.1, weight_decay=0.2)
    count = sum(len(group["params"]) for group in found)
    assert count == sum(1 for name, _ in model.named_parameters() if not name.startswith("text_tower."))
    assert {(group["lr"], group["weight_decay"]) for group in found} == {(0.1, 0.2), (0.1, 0.0), (0.05, 0.0)}
    assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for group in found for parameter in group["params"])
