import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import CheckpointError, UnknownCheckpoint, UnreadableCheckpoint, WeightsDoNotFit, registry, tokenizers
from models.clip import config as configs
from models.clip.config import ClipConfig
from models.clip.description import OPENAI_SCALARS
from models.glip.config import GLIP_CONFIGS
from tests.models import small_glip
from tests.models.small_clip import AVERAGED, RESNET, VIT, hf_config, hf_tensors, openai_tensors, random_model
from tests.parity import containers


@pytest.fixture(autouse=True)
def small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(configs.CLIP_CONFIGS, "small-vit", VIT)


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    path = tmp_path / "words.json"
    tokenizers.small_wordpiece(["fox"]).save(str(path))
    return path


def test_openai_archive_is_recognised(tmp_path: Path) -> None:
    original = random_model(VIT)
    path = containers.write_openai_archive(tmp_path / "ViT.pt", openai_tensors(original))
    loaded = registry.load(path)
    assert (loaded.family, loaded.variant, loaded.container) == ("clip", "small-vit", "openai")
    assert (loaded.licence, loaded.source) == ("unknown", "ViT.pt")
    assert loaded.tokenizer_file.is_file()
    torch.testing.assert_close(loaded.model.logit_scale, original.logit_scale)


def test_openai_state_dict_gives_the_same_model_as_the_archive(tmp_path: Path) -> None:
    tensors = openai_tensors(random_model(VIT))
    one = registry.load(containers.write_openai_archive(tmp_path / "a.pt", tensors)).model.state_dict()
    tensors |= {name: torch.tensor(32) for name in OPENAI_SCALARS}
    two = registry.load(containers.write_state_dict(tmp_path / "b.pt", tensors)).model.state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_huggingface_folder_is_recognised(tmp_path: Path) -> None:
    tensors = hf_tensors(random_model(VIT))
    loaded = registry.load(containers.write_huggingface(tmp_path, tensors, hf_config(VIT)))
    assert (loaded.family, loaded.container, loaded.config) == ("clip", "huggingface", VIT)


def test_huggingface_folder_with_its_own_tokenizer_uses_it(tmp_path: Path, tokenizer_file: Path) -> None:
    folder = containers.write_huggingface(tmp_path / "hf", hf_tensors(random_model(VIT)), hf_config(VIT))
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    assert registry.load(folder).tokenizer_file == folder / "tokenizer.json"


def test_config_of_another_family_is_refused(tmp_path: Path) -> None:
    config = hf_config(VIT) | {"model_type": "siglip"}
    with pytest.raises(UnknownCheckpoint, match="siglip"):
        registry.load(containers.write_huggingface(tmp_path, hf_tensors(random_model(VIT)), config))


def test_glip_file_is_recognised_and_its_averaged_twin_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some published files carry "model_ema", an optimizer and an iteration beside "model"."""
    monkeypatch.setitem(GLIP_CONFIGS, "small", small_glip.SWIN)
    original = small_glip.random_model(small_glip.SWIN)
    tensors = small_glip.microsoft_tensors(original)
    averaged = {name: torch.zeros_like(value) for name, value in tensors.items()}
    path = tmp_path / "glip.pth"
    torch.save({"model": tensors, "model_ema": averaged, "iteration": 7, "optimizer": {"state": {}}}, path)
    loaded = registry.load(path)
    assert (loaded.family, loaded.variant, loaded.container, loaded.licence) == (
        "glip",
        "small",
        "microsoft",
        "unknown",
    )
    wanted = original.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.model.state_dict().items())


def test_weights_of_no_known_family_are_refused_with_their_names(tmp_path: Path) -> None:
    path = containers.write_state_dict(tmp_path / "x.pt", {"layer4.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(UnknownCheckpoint, match=r"layer4\.0\.conv1\.weight.*clip, grounding_dino"):
        registry.load(path)


def test_error_names_the_file_and_the_keys(tmp_path: Path) -> None:
    tensors = openai_tensors(random_model(VIT)) | {"stray": torch.zeros(1)}
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    del tensors["ln_final.bias"]
    with pytest.raises(WeightsDoNotFit, match=r"x\.pt.*missing: ln_final\.bias.*left over: stray"):
        registry.load(containers.write_state_dict(tmp_path / "x.pt", tensors))


@pytest.mark.parametrize("config", [VIT, RESNET, AVERAGED])
def test_saved_checkpoint_loads_back(tmp_path: Path, config: ClipConfig, tokenizer_file: Path) -> None:
    original = random_model(config)
    folder = registry.save(tmp_path / "run", original, config, tokenizer_file=tokenizer_file, name="clip-tiny")
    loaded = registry.load(folder)
    assert (loaded.family, loaded.variant, loaded.container) == ("clip", "clip-tiny", "openset")
    assert (loaded.config, loaded.licence) == (config, "unknown")
    assert loaded.tokenizer_file.read_bytes() == tokenizer_file.read_bytes()
    wanted = original.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.model.state_dict().items())
    assert not loaded.model.training


def test_saving_twice_into_one_folder_keeps_its_tokenizer(tmp_path: Path, tokenizer_file: Path) -> None:
    folder = registry.save(tmp_path / "run", random_model(VIT), VIT, tokenizer_file=tokenizer_file, name="a")
    again = folder / "tokenizer.json"
    registry.save(folder, random_model(VIT, seed=1), VIT, tokenizer_file=again, name="b")
    assert registry.load(folder).variant == "b"
    assert again.read_bytes() == tokenizer_file.read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "dino"}, "dino"),
        ({"config": {"type": "ClipConfig", "embed_dim": 3}}, "ClipConfig"),
        ({"config": None}, "None"),
    ],
)
def test_damaged_header_is_refused(tmp_path: Path, change: dict[str, object], named: str, tokenizer_file: Path) -> None:
    folder = registry.save(tmp_path / "run", random_model(VIT), VIT, tokenizer_file=tokenizer_file, name="a")
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | change))
    with pytest.raises(CheckpointError, match=named):
        registry.load(folder)


def test_saved_checkpoint_with_a_key_too_few_or_many_is_refused(tmp_path: Path, tokenizer_file: Path) -> None:
    folder = registry.save(tmp_path / "run", random_model(VIT), VIT, tokenizer_file=tokenizer_file, name="a")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "stray": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(WeightsDoNotFit, match="left over: stray"):
        registry.load(folder)
    tensors.pop("logit_scale")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsDoNotFit, match="missing: logit_scale"):
        registry.load(folder)


def test_saved_checkpoint_without_tokenizer_is_refused(tmp_path: Path, tokenizer_file: Path) -> None:
    folder = registry.save(tmp_path / "run", random_model(VIT), VIT, tokenizer_file=tokenizer_file, name="a")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"tokenizer\.json"):
        registry.load(folder)


def test_config_of_no_family_cannot_be_saved(tmp_path: Path, tokenizer_file: Path) -> None:
    with pytest.raises(ValueError, match="dict"):
        registry.save(tmp_path, random_model(VIT), {}, tokenizer_file=tokenizer_file, name="a")
