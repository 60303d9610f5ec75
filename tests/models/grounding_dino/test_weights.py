import pytest
import torch
from torch import Tensor

from models import UnknownCheckpoint, WeightsDoNotFit
from models.grounding_dino import config as configs
from models.grounding_dino import state_dict_keys_hf as keys
from models.grounding_dino import weights
from models.grounding_dino.config import GROUNDING_DINO_CONFIGS, GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from tests.models.small_grounding_dino import MM_SWIN, SWIN, random_model

CONTAINERS = pytest.mark.parametrize("container", ["idea", "huggingface"])
BOX_HEAD = "decoder.bbox_embed.1.layers.0.weight"


@pytest.fixture(autouse=True)
def small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(configs.GROUNDING_DINO_CONFIGS, "small", SWIN)
    monkeypatch.setitem(configs.GROUNDING_DINO_CONFIGS, "mm_small", MM_SWIN)


@pytest.fixture(scope="module")
def original() -> GroundingDino:
    return random_model(SWIN)


def stored(model: GroundingDino, container: str, config: GroundingDinoConfig = SWIN) -> dict[str, Tensor]:
    """The model's tensors as `container` names and lays them out; shared tensors under all their names."""
    state = model.state_dict()
    tensors: dict[str, Tensor] = {}
    table = weights.idea_table(config) if container == "idea" else weights.hf_table(config)
    for key, source in table.items():
        if "in_proj_" in source.parts[0][0]:
            tensors[source.parts[0][0]] = torch.cat(
                [state[f"{key.rpartition('.')[0][:-6]}{n}_proj.{key.rpartition('.')[2]}"] for n in "qkv"]
            )
        elif ".attn.qkv." in key and container == "huggingface":
            tensors |= {part[0]: third for part, third in zip(source.parts, state[key].chunk(3), strict=True)}
        else:
            tensors |= {alias: state[key] for part in source.parts for alias in part}
    return tensors


@CONTAINERS
def test_weights_arrive_unchanged(original: GroundingDino, container: str) -> None:
    tensors = stored(original, container)
    assert weights.recognise(tensors) == container
    model, config, variant = weights.load(tensors, container, None)
    assert (config, variant) == (SWIN, "small")
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training


def test_surplus_of_the_published_files_is_tolerated_by_name(original: GroundingDino) -> None:
    surplus = ("label_enc.weight", "bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias")
    weights.load(stored(original, "idea") | {name: torch.zeros(1) for name in surplus}, "idea", None)


@CONTAINERS
@pytest.mark.parametrize("name", ["label_enc.bias", "transformer.extra", "model.decoder.layers.2.fc1.weight"])
def test_unknown_surplus_is_named(original: GroundingDino, container: str, name: str) -> None:
    with pytest.raises(WeightsDoNotFit, match=name) as caught:
        weights.load(stored(original, container) | {name: torch.zeros(1)}, container, None)
    assert caught.value.left_over == (name,)


@pytest.mark.parametrize(
    ("container", "name"),
    [
        ("idea", "transformer.enc_output.weight"),
        ("idea", "transformer.decoder.layers.1.ca_text.in_proj_bias"),
        ("idea", "bbox_embed.1.layers.2.bias"),
        ("idea", "backbone.0.patch_embed.proj.weight"),
        ("huggingface", "model.level_embed"),
        ("huggingface", "model.backbone.conv_encoder.model.encoder.layers.2.blocks.1.attention.self.key.bias"),
    ],
)
def test_any_missing_tensor_is_named(original: GroundingDino, container: str, name: str) -> None:
    tensors = stored(original, container)
    del tensors[name]
    assert weights.recognise(tensors) == container
    with pytest.raises(WeightsDoNotFit) as caught:
        weights.load(tensors, container, None)
    assert set(caught.value.missing) == {name}


def test_safetensors_may_keep_one_name_of_the_shared_box_head(original: GroundingDino) -> None:
    tensors = stored(original, "huggingface")
    kept = {
        name: value for name, value in tensors.items() if "bbox_embed." not in name or name.startswith("bbox_embed.1.")
    }
    kept |= {name: value for name, value in tensors.items() if name.startswith("model.encoder_output_bbox_embed")}
    model, _, _ = weights.load(kept, "huggingface", None)
    name = "box_head.layers.0.weight"
    assert torch.equal(model.state_dict()[name], original.state_dict()[name])


def test_positions_in_windows_need_not_be_stored(original: GroundingDino) -> None:
    tensors = {k: v for k, v in stored(original, "huggingface").items() if not k.endswith("relative_position_index")}
    extra = {name: torch.ones(64) for name in keys.SURPLUS}
    model, _, _ = weights.load(tensors | extra, "huggingface", None)
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("container", "prefix"), [("idea", "transformer."), ("huggingface", "model.")])
def test_box_heads_that_differ_between_layers_are_refused(original: GroundingDino, container: str, prefix: str) -> None:
    tensors = stored(original, container)
    tensors[prefix + BOX_HEAD] = tensors[prefix + BOX_HEAD] + 1
    with pytest.raises(WeightsDoNotFit, match="differs"):
        weights.load(tensors, container, None)


def test_wrong_shape_is_named(original: GroundingDino) -> None:
    tensors = stored(original, "idea") | {"feat_map.bias": torch.zeros(3)}
    with pytest.raises(WeightsDoNotFit, match=r"feat_map.bias \[3\].*\[64\]"):
        weights.load(tensors, "idea", None)


@pytest.mark.parametrize("shape", [(24, 3, 4, 4), (8, 3, 2, 2), ()])
def test_unknown_size_is_refused_with_its_shape(original: GroundingDino, shape: tuple[int, ...]) -> None:
    tensors = stored(original, "idea") | {"backbone.0.patch_embed.proj.weight": torch.zeros(shape)}
    with pytest.raises(UnknownCheckpoint, match=r"patch_embed.*swin_t"):
        weights.load(tensors, "idea", None)


def test_huggingface_config_of_another_model_is_refused(original: GroundingDino) -> None:
    tensors = stored(original, "huggingface")
    weights.load(tensors, "huggingface", {"model_type": "grounding-dino", "num_queries": 20})
    with pytest.raises(UnknownCheckpoint, match="positional_embedding_temperature 10000"):
        weights.load(tensors, "huggingface", {"positional_embedding_temperature": 10000})


@pytest.mark.parametrize("names", [[], ["visual.conv1.weight"], ["transformer.level_embed"], ["model.level_embed"]])
def test_other_tensors_are_not_recognised(names: list[str]) -> None:
    assert weights.recognise(names) is None


@pytest.mark.parametrize("variant", ["swin_t", "swin_b", "mm_swin_t", "mm_swin_b", "mm_swin_l"])
def test_table_has_every_key_of_the_model_once(variant: str) -> None:
    config = GROUNDING_DINO_CONFIGS[variant]
    with torch.device("meta"):
        keys = GroundingDino(config).state_dict().keys()
    tables = weights.published_tables(config)
    assert set(tables) == ({"huggingface"} if variant.startswith("mm") else {"idea", "huggingface"})
    assert all(table.sources.keys() == keys for table in tables.values())


@pytest.fixture(scope="module")
def of_openmmlab() -> dict[str, Tensor]:
    """Tensors of a small MM-Grounding-DINO, the logits of whose layers have biases 0 and 1, those of selection 7."""
    tensors = stored(random_model(MM_SWIN), "huggingface", MM_SWIN)
    biases = {name.format(layer): torch.tensor(float(layer)) for name in keys.LOGIT_BIAS for layer in range(2)}
    return tensors | biases | {keys.SELECTION_BIAS: torch.tensor(7.0)}


def test_mm_grounding_dino_has_box_heads_of_its_own_and_the_last_layer_s_bias(of_openmmlab: dict[str, Tensor]) -> None:
    assert weights.recognise(of_openmmlab) == "huggingface"
    model, config, variant = weights.load(of_openmmlab, "huggingface", {"model_type": "mm-grounding-dino"})
    assert (config, variant) == (MM_SWIN, "mm_small")
    assert (model.token_logits.bias, model.selection.token_logits.bias) == (1, 7)
    for layer in range(2):
        own = model.box_heads[layer].state_dict()["layers.0.weight"]
        assert torch.equal(own, of_openmmlab[f"bbox_embed.{layer}.layers.0.weight"])


@pytest.mark.parametrize("name", ["bbox_embed.0.layers.1.bias", "class_embed.1.bias", keys.SELECTION_BIAS])
def test_mm_grounding_dino_without_a_head_is_refused(of_openmmlab: dict[str, Tensor], name: str) -> None:
    tensors = {stored: value for stored, value in of_openmmlab.items() if not stored.endswith(name)}
    with pytest.raises(WeightsDoNotFit):
        weights.load(tensors, "huggingface", None)


def test_mm_grounding_dino_whose_layers_share_a_head_has_one(of_openmmlab: dict[str, Tensor]) -> None:
    tensors = {name: value for name, value in of_openmmlab.items() if "bbox_embed.1." not in name}
    model, config, _ = weights.load(tensors, "huggingface", None)
    assert not config.own_box_heads
    assert torch.equal(model.box_head.layers[0].weight, of_openmmlab["bbox_embed.0.layers.0.weight"])


def test_config_of_grounding_dino_beside_mm_grounding_dino_is_refused(of_openmmlab: dict[str, Tensor]) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"model_type 'grounding-dino'; this model has 'mm-grounding-dino'"):
        weights.load(of_openmmlab, "huggingface", {"model_type": "grounding-dino"})
