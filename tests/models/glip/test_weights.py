import pytest
import torch

from models import UnknownCheckpoint, WeightsDoNotFit
from models.glip import config as configs
from models.glip import weights
from models.glip.config import GLIP_CONFIGS, GlipConfig
from models.glip.model import Glip
from tests.models.small_glip import SWIN, UNFUSED, microsoft_tensors, random_model

SIZES = pytest.mark.parametrize("config", [SWIN, UNFUSED], ids=["fused", "unfused"])


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(configs.GLIP_CONFIGS, "small", SWIN)
    monkeypatch.setitem(configs.GLIP_CONFIGS, "small_a", UNFUSED)


@SIZES
def test_weights_arrive_unchanged(config: GlipConfig) -> None:
    original = random_model(config)
    tensors = microsoft_tensors(original)
    assert weights.recognise(tensors) == "microsoft"
    model, found, variant = weights.load(tensors, "microsoft", None)
    assert (found, variant) == (config, "small" if config is SWIN else "small_a")
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training


def test_modules_of_the_tower_are_numbered_in_threes_or_one_by_one() -> None:
    sources = weights.microsoft_table(SWIN)
    assert sources["tower.1.conv.offset.weight"].parts == (("rpn.head.dyhead_tower.5.offset.weight",),)
    assert sources["tower.1.fusion.gamma_text"].parts == (("rpn.head.dyhead_tower.3.b_attn.gamma_l",),)
    unfused = weights.microsoft_table(UNFUSED)
    assert unfused["tower.1.conv.offset.weight"].parts == (("rpn.head.dyhead_tower.1.offset.weight",),)


def test_surplus_of_the_published_files_is_tolerated_by_name() -> None:
    surplus = ("rpn.head.cls_logits.weight", "language_backbone.body.model.embeddings.position_ids")
    weights.load(microsoft_tensors(random_model(SWIN)) | {name: torch.zeros(1) for name in surplus}, "microsoft", None)


@pytest.mark.parametrize("name", ["rpn.head.cls_logits.extra", "rpn.head.dyhead_tower.9.offset.weight"])
def test_unknown_surplus_is_named(name: str) -> None:
    with pytest.raises(WeightsDoNotFit, match=name) as caught:
        weights.load(microsoft_tensors(random_model(SWIN)) | {name: torch.zeros(1)}, "microsoft", None)
    assert caught.value.left_over == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "rpn.head.log_scale",
        "rpn.head.scales.3.scale",
        "rpn.anchor_generator.cell_anchors.4",
        "rpn.head.dyhead_tower.4.attention.self.key.bias",
        "backbone.fpn.top_blocks.p7.weight",
        "backbone.body.patch_embed.proj.weight",
    ],
)
def test_any_missing_tensor_is_named(name: str) -> None:
    tensors = microsoft_tensors(random_model(SWIN))
    del tensors[name]
    assert weights.recognise(tensors) == "microsoft"
    with pytest.raises(WeightsDoNotFit) as caught:
        weights.load(tensors, "microsoft", None)
    assert set(caught.value.missing) == {name}


def test_weights_that_end_alike_are_not_mistaken_for_each_other() -> None:
    """The official loader matches names by their endings, and skips what has another shape."""
    tensors = microsoft_tensors(random_model(SWIN))
    tensors["extra." + "rpn.head.log_scale"] = tensors.pop("rpn.head.log_scale")
    with pytest.raises(WeightsDoNotFit) as caught:
        weights.load(tensors, "microsoft", None)
    assert caught.value.missing == ("rpn.head.log_scale",)
    assert caught.value.left_over == ("extra.rpn.head.log_scale",)


def test_unknown_size_is_refused_with_its_shape() -> None:
    tensors = microsoft_tensors(random_model(SWIN)) | {
        "backbone.body.patch_embed.proj.weight": torch.zeros(24, 3, 4, 4)
    }
    with pytest.raises(UnknownCheckpoint, match=r"24, 3, 4, 4.*with fusion.*glip_t"):
        weights.load(tensors, "microsoft", None)


@pytest.mark.parametrize("names", [[], ["feat_map.weight"], ["rpn.head.log_scale"]])
def test_other_tensors_are_not_recognised(names: list[str]) -> None:
    assert weights.recognise(names) is None


@pytest.mark.parametrize("variant", ["glip_t", "glip_t_a", "glip_l"])
def test_table_has_every_key_of_the_model_once(variant: str) -> None:
    config = GLIP_CONFIGS[variant]
    with torch.device("meta"):
        keys = Glip(config).state_dict().keys()
    assert weights.microsoft_table(config).keys() == keys
