"""A detector that starts from a CLIP and distilled words names things before it has learnt anything itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.config_io import from_json
from models.data.collate import pad_text
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.synthetic.sprites import read_names
from models.tokenizers import text_rules, vocabulary_size
from models.training.detectors import PROMPT
from models.training.distillation import BERT, TOKENIZER, DistilledWords
from models.training.recipe import read_recipe
from models.training.warm_start import align, ridge, shared_directions
from server.contract.text import PromptTokenizer
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
    model = dict(read_recipe(f"{family}-mini").model or {})
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
