"""A detector that starts from a CLIP and distilled words names things before it has learnt anything itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.clip.config import ClipConfig, EfficientNetTowerConfig, TextConfig
from models.clip.model import Clip
from models.config_io import from_json, to_json
from models.data.collate import pad_text
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.efficientnet import EfficientNetConfig
from models.registry import LoadedCheckpoint
from models.synthetic.sprites import read_names
from models.tokenizers import text_rules, vocabulary_size
from models.training.detectors import PROMPT
from models.training.distillation import BERT, DIMENSIONS, TOKENIZER, DistilledWords
from models.training.recipe import read_recipe
from models.training.warm_start import align, ridge, shared_directions, start_clip, start_detector
from server.contract.text import PromptTokenizer
from tests.models.layers.test_efficientnet import SMALL
from tests.models.test_efficientnet_weights import published
from tests.models.training.small_words import write_small_words

NAMES = [item.label for item in read_names()]
ASKED = NAMES[::17]
CHANNELS = 768


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_small_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def prompts(words: Path) -> PromptTokenizer:
    return PromptTokenizer(words / TOKENIZER, text_rules(words / TOKENIZER, "phrases", max_tokens=256))


def places(words: Path) -> torch.Tensor:
    known = DistilledWords(words).embeddings
    return torch.stack([known[name] for name in NAMES])


def small(family: str, kind: type, words: Path) -> nn.Module:
    model = dict(read_recipe(f"{family}-drawings").model or {})
    model["text"] = {**model["text"], "vocab_size": vocabulary_size(words / TOKENIZER)}
    torch.manual_seed(1)
    detector = kind(from_json({"glip": GlipConfig, "grounding-dino": GroundingDinoConfig}[family], model)).eval()
    DistilledWords(words).fill(detector.text_backbone, BERT)
    return detector


@torch.no_grad()
def named(detector: nn.Module, head: nn.Linear, words: Path, prompts: PromptTokenizer) -> list[str]:
    """What the detector calls pictures whose last map says, all over, what the CLIP's head reads as each asked name."""
    known = DistilledWords(words).embeddings
    text = pad_text([prompts.from_labels(ASKED)])
    features = detector.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
    answers = []
    for name in ASKED:
        feature = torch.linalg.pinv(head.weight) @ (known[name] - head.bias)
        last = feature[None, :, None, None] + 0.01 * torch.randn(1, CHANNELS, 5, 8)
        maps = [torch.randn(1, CHANNELS // 4, 20, 32), torch.randn(1, CHANNELS // 2, 10, 16), last]
        if isinstance(detector, Glip):
            logits = detector.detect(detector.pyramid(maps), features, text["text_mask"]).token_logits
        else:
            mask = torch.ones(1, 160, 256, dtype=torch.bool)
            logits = detector.detect(detector.neck(maps), mask, features, *(text[key] for key in PROMPT)).logits
        labels = text["token_label"][0]
        scores = torch.stack([logits[0][:, labels == label].mean() for label in range(len(ASKED))])
        answers.append(ASKED[int(scores.argmax())])
    return answers


@pytest.mark.parametrize(("family", "kind"), [("grounding-dino", GroundingDino), ("glip", Glip)])
def test_aligned_detector_names_what_the_tower_names(family, kind, words, prompts):
    torch.manual_seed(2)
    head = nn.Linear(CHANNELS, places(words).shape[1])
    detector = small(family, kind, words)
    before = named(detector, head, words, prompts)
    align(detector, head, NAMES, places(words), prompts)
    after = named(detector, head, words, prompts)
    assert np.mean([a == b for a, b in zip(before, ASKED, strict=True)]) < 0.4
    assert np.mean([a == b for a, b in zip(after, ASKED, strict=True)]) > 0.8


@pytest.mark.parametrize(("family", "kind"), [("grounding-dino", GroundingDino), ("glip", Glip)])
def test_a_detector_knows_the_words_of_its_backbones_cells(family, kind, words, prompts):
    backbone = EfficientNetConfig((4, 4, 8, 8, 8, 8, 8), (1,) * 7, stem=4, head=16, classes=10, words=DIMENSIONS)
    clip = Clip(ClipConfig(DIMENSIONS, EfficientNetTowerConfig(64, backbone), TextConfig(32, 1, 2))).eval()
    model = dict(read_recipe(f"{family}-mini").model or {})
    model |= {
        "text": {**model["text"], "vocab_size": vocabulary_size(words / TOKENIZER)},
        "backbone": json.loads(json.dumps(to_json(backbone))),
    }
    detector = kind(from_json({"glip": GlipConfig, "grounding-dino": GroundingDinoConfig}[family], model)).eval()
    start = LoadedCheckpoint("clip", "", "openset", clip, clip.config, "", "", "", Path())
    start_detector(detector, start, DistilledWords(words), prompts, frozen_words=True)
    stored = clip.image_tower.state_dict()
    assert all(
        torch.equal(stored[f"words.{name}"], value) for name, value in detector.backbone.words.state_dict().items()
    )
    known, text = DistilledWords(words).embeddings, pad_text([prompts.from_labels(ASKED)])
    features = detector.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
    cells = torch.stack([known[name] for name in ASKED]).T[None, :, None]
    logits, labels = detector.word_scores.maps(cells, features)[0, :, 0], text["token_label"][0]
    scores = torch.stack([logits[labels == label].mean(0) for label in range(len(ASKED))])
    assert (scores.argmax(0) == torch.arange(len(ASKED))).float().mean() > 0.8


def test_a_tower_takes_published_weights_and_the_classes_of_the_words(words, tmp_path):
    config = replace(SMALL, words=DIMENSIONS)
    clip = Clip(ClipConfig(DIMENSIONS, EfficientNetTowerConfig(64, config), TextConfig(32, 1, 2)))
    known = DistilledWords(words)
    known.fill = lambda *_: None
    known.classes = torch.randn(config.classes, DIMENSIONS)
    tensors = published(config)
    start_clip(clip, None, known, tensors)
    assert torch.equal(clip.image_tower.words.embeddings.weight, known.classes.T)
    assert torch.equal(clip.image_tower.words.classifier.weight, tensors["_fc.weight"])
    known.classes = torch.randn(3, DIMENSIONS)
    with pytest.raises(ValueError, match=r"embeds 3 classes .* distil the words with --classes"):
        start_clip(clip, None, known, tensors)


def test_shared_directions_keep_how_names_lie_to_each_other(words):
    known = places(words)
    mean, directions = shared_directions(known, known.shape[1])
    found = (known - mean) @ directions.T
    assert torch.allclose(found @ found.T, (known - mean) @ (known - mean).T, atol=1e-5)


def test_ridge_finds_the_map_that_made_the_targets():
    features, weight, bias = torch.randn(500, 20), torch.randn(7, 20), torch.randn(7)
    found, offset = ridge(features, features @ weight.T + bias)
    assert torch.allclose(found, weight, atol=0.02)
    assert torch.allclose(offset, bias, atol=0.02)
