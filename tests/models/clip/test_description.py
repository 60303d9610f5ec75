"""One CLIP in every container, under both namings, with every configuration beside it: one model, or a refusal."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from models import UnknownCheckpoint, registry
from models.clip import config as configs
from models.clip.config import with_activation
from models.clip.description import OPENAI_SCALARS
from models.clip.serving import serving_rules
from tests.models import small_clip
from tests.models.small_clip import RESNET, VIT, hf_config, hf_tensors, openai_tensors, random_model
from tests.parity import containers

NAMINGS = {"openai": openai_tensors, "huggingface": hf_tensors}
FILES = {"safetensors": "x.safetensors", "pickle": "x.pth", "lightning": "last.ckpt", "folder": "model.safetensors",
         "bin": "pytorch_model.bin", "open_clip": "open_clip_pytorch_model.bin"}  # fmt: skip
ACTIVATIONS = ("gelu", "quick_gelu")


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setitem(configs.CLIP_CONFIGS, "small-vit", VIT)
    monkeypatch.setitem(configs.CLIP_CONFIGS, "small-resnet", RESNET)


def transformers_config(activation):
    config = hf_config(VIT)
    for tower in ("text_config", "vision_config"):
        config[tower] = config[tower] | {"hidden_act": activation}
    return config


def open_clip_config(activation, *, whole=True, **preprocess):
    model = small_clip.open_clip_config(with_activation(VIT, activation))
    if not whole:
        model = {name: value for name, value in model.items() if name == "quick_gelu"}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def beside(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def stored(folder, naming, container, *, scalars=False):
    """The path to load: the same weights under a naming, in a container."""
    tensors = NAMINGS[naming](random_model(VIT, seed=3))
    if scalars:
        tensors |= {name: torch.tensor(9) for name in OPENAI_SCALARS}
    path = folder / FILES[container]
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    elif container == "lightning":
        wrapped = {f"model.{name}": value for name, value in tensors.items()}
        torch.save({"state_dict": wrapped, "epoch": 3, "hyper_parameters": {"lr": 1e-4}}, path)
    else:
        torch.save(tensors, path)
    return folder if container in ("folder", "open_clip", "bin") else path


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("configuration", ["config", "open_clip_config", "both", "partial"])
@pytest.mark.parametrize("container", FILES)
@pytest.mark.parametrize("naming", NAMINGS)
def test_same_weights_are_one_model_with_the_activation_told(tmp_path, naming, container, configuration, activation):
    ours, theirs = transformers_config(activation), open_clip_config(activation)
    files = {
        "config": {"config": ours},
        "open_clip_config": {"open_clip_config": theirs},
        "both": {"config": ours, "open_clip_config": theirs},
        "partial": {"open_clip_config": open_clip_config(activation, whole=False)},
    }[configuration]
    beside(tmp_path, **files)
    loaded = registry.load(stored(tmp_path, naming, container))
    wanted = replace(
        VIT, image=replace(VIT.image, activation=activation), text=replace(VIT.text, activation=activation)
    )
    assert loaded.config == wanted
    original = random_model(VIT, seed=3).state_dict()
    assert all(torch.equal(value, original[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize("container", FILES)
@pytest.mark.parametrize("naming", NAMINGS)
def test_weights_without_a_word_on_their_activation_are_refused(tmp_path, naming, container):
    with pytest.raises(UnknownCheckpoint, match="nothing tells whether it was trained with gelu or quick_gelu"):
        registry.load(stored(tmp_path, naming, container))


@pytest.mark.parametrize("naming", NAMINGS)
def test_files_that_contradict_each_other_are_refused(tmp_path, naming):
    beside(tmp_path, config=transformers_config("gelu"), open_clip_config=open_clip_config("quick_gelu"))
    with pytest.raises(UnknownCheckpoint, match=r"config\.json: gelu, open_clip_config\.json: quick_gelu"):
        registry.load(stored(tmp_path, naming, "pickle"))


def test_openais_own_file_needs_no_configuration_and_bears_no_other(tmp_path):
    path = stored(tmp_path, "openai", "pickle", scalars=True)
    assert registry.load(path).config == VIT
    archive = containers.write_openai_archive(tmp_path / "a.pt", openai_tensors(random_model(VIT)))
    assert registry.load(archive).config == VIT
    beside(tmp_path, config=transformers_config("gelu"))
    for file in (path, archive):
        with pytest.raises(UnknownCheckpoint, match=r"OpenAI's own: quick_gelu, config\.json: gelu"):
            registry.load(file)


def test_configuration_of_another_model_in_the_folder_is_passed_over_by_a_file_of_openais(tmp_path):
    beside(tmp_path, config={"model_type": "bert"}, preprocessor_config={"size": 24, "crop_size": 24})
    assert registry.load(stored(tmp_path, "openai", "pickle", scalars=True)).config == VIT


def test_text_tower_of_a_resnet_has_the_activation_told(tmp_path):
    torch.save(openai_tensors(random_model(RESNET)), tmp_path / "x.pt")
    config = open_clip_config("gelu")
    config["model_cfg"]["vision_cfg"] = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
    beside(tmp_path, open_clip_config=config)
    assert registry.load(tmp_path / "x.pt").config == replace(RESNET, text=replace(RESNET.text, activation="gelu"))


@pytest.mark.parametrize(
    ("section", "entry", "value"),
    [
        ("vision_cfg", "timm_model_name", "vit_base"),
        ("vision_cfg", "attentional_pool", True),
        ("vision_cfg", "pool_type", "avg"),
        ("vision_cfg", "mlp_ratio", 4.3637),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "no_causal_mask", True),
        ("vision_cfg", "layers", 10**9),
        ("vision_cfg", "head_width", 0),
        ("text_cfg", "width", "wide"),
    ],
)
def test_open_clip_model_of_another_kind_is_refused_by_the_entry(tmp_path, section, entry, value):
    config = open_clip_config("gelu")
    config["model_cfg"][section][entry] = value
    beside(tmp_path, open_clip_config=config)
    with pytest.raises(UnknownCheckpoint, match=r"config\.json|configuration"):
        registry.load(stored(tmp_path, "openai", "pickle"))


SIDE = VIT.image.image_size
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": SIDE, "crop_size": SIDE}


def preprocessing_of(path):
    loaded = registry.load(path)
    return serving_rules(loaded.model, loaded.tokenizer_file).overridden(loaded.serving).preprocessing


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": HALF},
        {"processor_config": {"processor_class": "CLIPProcessor", "image_processor": HALF}},
        {"preprocessor_config": HALF, "processor_config": {"processor_class": "CLIPProcessor"}},
        {"open_clip_config": open_clip_config("gelu", mean=[0.5] * 3, std=[0.5] * 3, size=[SIDE, SIDE])},
    ],
    ids=["preprocessor", "processor", "both", "open_clip"],
)
def test_mean_and_std_told_beside_the_weights_are_the_bundles(tmp_path, naming, files):
    beside(tmp_path, **({"config": transformers_config("gelu")} | files))
    rules = preprocessing_of(stored(tmp_path, naming, "folder"))
    assert (rules.mean, rules.std, rules.shorter, rules.resample) == ((0.5,) * 3, (0.5,) * 3, SIDE, "bicubic")
    assert rules.rgb_after_resize == (naming == "openai")


def test_processors_that_contradict_each_other_are_refused(tmp_path):
    beside(tmp_path, config=transformers_config("gelu"), preprocessor_config=HALF,
           processor_config={"image_processor": HALF | {"resample": 2}})  # fmt: skip
    with pytest.raises(UnknownCheckpoint, match=r"preprocessor_config\.json and processor_config\.json tell different"):
        registry.load(stored(tmp_path, "huggingface", "folder"))


@pytest.mark.parametrize("change", [{"crop_size": SIDE // 2, "size": SIDE}, {"do_center_crop": False}])
def test_images_of_another_size_than_the_models_are_refused(tmp_path, change):
    beside(tmp_path, config=transformers_config("gelu"), preprocessor_config=HALF | change | {"size": SIDE + 1})
    with pytest.raises(UnknownCheckpoint, match=f"no squares of {SIDE} pixels"):
        registry.load(stored(tmp_path, "huggingface", "folder"))


def test_weights_without_a_processor_are_told_of(tmp_path, caplog):
    beside(tmp_path, config=transformers_config("gelu"))
    registry.load(stored(tmp_path, "huggingface", "folder"))
    assert "no preprocessor_config.json is beside it" in caplog.text
