import pytest
import torch

from models import UnknownCheckpoint, WeightsDoNotFit
from models.clip import config as configs
from models.clip import weights
from models.clip.config import CLIP_CONFIGS, ClipConfig, VisionTransformerConfig
from models.clip.model import Clip
from tests.models.small_clip import RESNET, VIT, hf_config, hf_tensors, openai_tensors, random_model


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(configs.CLIP_CONFIGS, "small-vit", VIT)
    monkeypatch.setitem(configs.CLIP_CONFIGS, "small-resnet", RESNET)


@pytest.mark.parametrize(("config", "name"), [(VIT, "small-vit"), (RESNET, "small-resnet")])
def test_openai_weights_arrive_unchanged(config: ClipConfig, name: str) -> None:
    original = random_model(config)
    model, found, variant = weights.load(openai_tensors(original), "openai", None)
    assert (found, variant) == (config, name)
    assert_same_weights(model, original)


def test_huggingface_weights_arrive_unchanged() -> None:
    original = random_model(VIT)
    model, config, _ = weights.load(hf_tensors(original), "huggingface", hf_config(VIT))
    assert config == VIT
    assert_same_weights(model, original)


def test_half_precision_is_widened() -> None:
    tensors = {name: value.half() for name, value in openai_tensors(random_model(VIT)).items()}
    model, _, _ = weights.load(tensors, "openai", None)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_known_surplus_is_tolerated() -> None:
    tensors = openai_tensors(random_model(VIT))
    tensors |= {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    tensors["transformer.resblocks.1.attn_mask"] = torch.zeros(9, 9)
    weights.load(tensors, "openai", None)


@pytest.mark.parametrize("name", ["visual.extra", "transformer.resblocks.2.attn_mask", "visual.ln_pre.weight2"])
def test_unknown_surplus_is_refused_by_name(name: str) -> None:
    tensors = openai_tensors(random_model(VIT)) | {name: torch.zeros(1)}
    with pytest.raises(WeightsDoNotFit, match=name) as caught:
        weights.load(tensors, "openai", None)
    assert caught.value.left_over == (name,)


@pytest.mark.parametrize("name", ["visual.conv1.weight", "transformer.resblocks.1.ln_1.bias", "logit_scale"])
def test_missing_key_is_named(name: str) -> None:
    tensors = openai_tensors(random_model(VIT))
    del tensors[name]
    with pytest.raises(WeightsDoNotFit) as caught:
        weights.load(tensors, "openai", None)
    assert caught.value.missing == (name,)


def test_missing_key_that_tells_a_resnets_size_is_named() -> None:
    tensors = openai_tensors(random_model(RESNET))
    del tensors["visual.attnpool.positional_embedding"]
    with pytest.raises(WeightsDoNotFit) as caught:
        weights.load(tensors, "openai", None)
    assert caught.value.missing == ("visual.attnpool.positional_embedding",)


def test_wrong_shape_is_named() -> None:
    tensors = openai_tensors(random_model(VIT))
    tensors["ln_final.weight"] = torch.zeros(17)
    with pytest.raises(WeightsDoNotFit, match=r"ln_final.weight \[17\].*\[16\]"):
        weights.load(tensors, "openai", None)


def test_unknown_size_is_refused_with_its_shapes() -> None:
    tensors = openai_tensors(random_model(VIT))
    tensors["visual.conv1.weight"] = torch.zeros(24, 3, 5, 5)
    with pytest.raises(UnknownCheckpoint, match=r"24, 3, 5, 5.*ViT-L/14@336px"):
        weights.load(tensors, "openai", None)


def test_huggingface_activation_is_taken_from_its_config() -> None:
    config = hf_config(VIT)
    config["text_config"] = {**config["text_config"], "hidden_act": "gelu"}  # type: ignore[dict-item]
    _, found, variant = weights.load(hf_tensors(random_model(VIT)), "huggingface", config)
    assert found.text.activation == "gelu"
    assert variant == "ViT-24x2/4"  # another model than the published one of the same shapes


def test_published_sizes_differ_in_their_telling_shapes() -> None:
    told = [tuple(weights.telling_shapes(config, "openai").items()) for config in CLIP_CONFIGS.values()]
    assert len(set(told)) == len(CLIP_CONFIGS)


@pytest.mark.parametrize("config", CLIP_CONFIGS.values(), ids=CLIP_CONFIGS.keys())
def test_table_covers_every_tensor_of_a_published_size(config: ClipConfig) -> None:
    with torch.device("meta"):
        keys = Clip(config).state_dict().keys()
    assert weights.openai_table(config)[0].keys() == keys
    if isinstance(config.image, VisionTransformerConfig):
        assert weights.hf_table(config)[0].keys() == keys


def assert_same_weights(model: Clip, original: Clip) -> None:
    wanted = original.state_dict()
    assert model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert not model.training
