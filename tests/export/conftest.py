"""Small checkpoints with random weights and the bundles made of them; each is exported once."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export.bundle import export_bundle
from models import registry
from models.clip.config import (
    ClipConfig,
    EfficientNetTowerConfig,
    ResNetTowerConfig,
    TextConfig,
    VisionTransformerConfig,
)
from models.clip.model import Clip
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.bert import BertConfig
from models.layers.configs import BackboneConfig, ResNetConfig, SwinConfig
from models.layers.efficientnet import EfficientNetConfig
from models.tokenizers import small_wordpiece

WORDS = ("a", "dog", "red", "bicycle", "cat", "sports", "car", "rain", "sailing", "boat", "key", "small", "house")
EFFICIENTNET = EfficientNetConfig((4, 4, 8, 8, 12, 12, 16), (1, 1, 1, 2, 1, 1, 1), stem=8, head=32, classes=20, words=8)
SMALL_SERVING = {"preprocessing": {"shorter": 128, "longer": 208}, "buckets": {"pixel_multiple": 32}}


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, so that no part of the graph is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += (0.02 if parameter.dim() > 1 else 0.05) * noise
    return model.eval()


@pytest.fixture(scope="session")
def save_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a checkpoint folder: "clip", "clip-average", "clip-words", "detector", "glip-swin", ..."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = small_wordpiece(WORDS)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()

    def save(name: str, **serving: object) -> Path:
        torch.manual_seed(0)
        model, config = _model(name, vocabulary)
        rules = {**({} if name.startswith("clip") else SMALL_SERVING), **serving}
        target = Path(folder / f"{name}-{len(list(folder.iterdir()))}")
        file = folder / "tokenizer.json"
        return registry.save(target, model, config, tokenizer_file=file, name=name, serving=rules)

    return save


def _model(name: str, vocabulary: int) -> tuple[nn.Module, object]:
    if name.startswith("clip"):
        text = TextConfig(width=32, layers=2, heads=2, vocab_size=vocabulary)
        image: VisionTransformerConfig | ResNetTowerConfig | EfficientNetTowerConfig
        image = VisionTransformerConfig(32, 8, 32, 2, 2)
        if name == "clip-words":
            drawings = ResNetTowerConfig(32, ResNetConfig((1, 1, 1, 1), 4), pool="average")
            image = EfficientNetTowerConfig(64, replace(EFFICIENTNET, words=24), drawings)
        if name == "clip-average":
            image = ResNetTowerConfig(64, ResNetConfig((1, 1, 1, 1), 8), pool="average")
        clip = ClipConfig(24, image, text)
        return shaken(Clip(clip)), clip
    swin = SwinConfig(8, (1, 2, 2, 1), (1, 2, 2, 4), 3)
    backbone: BackboneConfig = ResNetConfig(blocks=(1, 1, 1, 1), width=4)
    backbone = {
        "swin": swin,
        "words": EFFICIENTNET,
        "drawn": replace(EFFICIENTNET, drawn=16),
    }.get(name.rpartition("-")[2], backbone)
    bert = BertConfig(vocab_size=vocabulary, width=32, layers=1, heads=2, hidden=64, max_positions=48)
    tiny = name.endswith("-tiny")
    if name.startswith("glip"):
        glip = GlipConfig(
            backbone=backbone,
            text=bert,
            stages=(2, 3) if tiny else (1, 2, 3),
            channels=32,
            extra_levels=0 if tiny else 2,
            anchor_sizes=(128, 256) if tiny else (64, 128, 256, 512, 1024),
            tower_layers=1 if tiny else 2,
            fusion_heads=2,
            fusion_hidden=64,
            prior=0.4,
            candidates_per_level=100,
        )
        return shaken(Glip(glip)), glip
    detector = GroundingDinoConfig(
        backbone=backbone,
        text=bert,
        d_model=64,
        heads=4,
        points=2,
        stages=(2, 3) if tiny else (1, 2, 3),
        levels=2 if tiny else 4,
        encoder_layers=1 if tiny else 2,
        decoder_layers=1 if tiny else 2,
        ffn_hidden=64,
        text_ffn_hidden=64,
        fusion_hidden=64,
        num_queries=20,
        fusion_gamma_init=0.1,
    )
    return shaken(GroundingDino(detector)), detector


@pytest.fixture(scope="session")
def clip_bundle(save_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "small-clip"
    export_bundle(save_checkpoint("clip"), out)
    return out


@pytest.fixture(scope="session")
def detector_bundle(save_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "small-detector"
    export_bundle(save_checkpoint("detector"), out)
    return out


@pytest.fixture(scope="session")
def glip_bundle(save_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "small-glip"
    export_bundle(save_checkpoint("glip"), out)
    return out


@pytest.fixture(scope="session")
def grid_sample_bundle(save_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector's bundle, its sampling lowered to GridSample alone."""
    out = tmp_path_factory.mktemp("bundles") / "small-grid-sample"
    export_bundle(save_checkpoint("detector"), out, lowering="grid_sample")
    return out


@pytest.fixture(scope="session")
def gather_bundle(save_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector's bundle, its sampling lowered to gathers."""
    out = tmp_path_factory.mktemp("bundles") / "small-gather"
    export_bundle(save_checkpoint("detector"), out, lowering="gather")
    return out


@pytest.fixture
def copied(detector_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the detector's bundle, to be tampered with."""
    return Path(shutil.copytree(detector_bundle, tmp_path / "copy"))
