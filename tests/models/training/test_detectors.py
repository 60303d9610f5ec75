"""Every adapter family is trained and validated through the same adapter."""

import pytest
import torch
from torch import nn

from models.data.collate import DetectionBatch, pad_text
from models.training.detectors import DetectorAdapter, GlipAdapter, GroundingDinoAdapter
from server.contract.manifest import TextRules
from server.contract.text import PromptTokenizer
from tests.models import small_glip, small_grounding_dino
from tests.server.fakes import tokenizer_file

RULES = TextRules(style="phrases", max_tokens=32, start_id=1, end_id=2, pad_id=0, separator_ids=(4, 5))
SIZE = (60, 90)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory):
    tokenizer = PromptTokenizer(tokenizer_file(tmp_path_factory.mktemp("tokenizer")), RULES)
    return [tokenizer.from_labels(labels) for labels in (["!", '"#'], ["$"])]


@pytest.fixture(params=["glip", "grounding_dino"])
def trainable(request: pytest.FixtureRequest) -> tuple[DetectorAdapter, nn.Module]:
    if request.param == "glip":
        return GlipAdapter(), small_glip.random_model(small_glip.RESNET)
    return GroundingDinoAdapter(), small_grounding_dino.random_model(small_grounding_dino.RESNET)


def batch_of(prompts) -> DetectionBatch:
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[:, : SIZE[0], : SIZE[1]] = True
    tokens = max(map(len, prompts))
    positive = torch.zeros(1, tokens, dtype=torch.bool)
    positive[0, 1] = True
    return DetectionBatch(
        pixels=torch.randn(2, 3, 64, 96) * mask[:, None],
        mask=mask,
        sizes=[SIZE, SIZE],
        text=pad_text(prompts),
        boxes_xyxy=[torch.tensor([[10.0, 12.0, 50.0, 44.0]]), torch.zeros(0, 4)],
        positive=[positive, torch.zeros(0, tokens, dtype=torch.bool)],
    )


def test_a_batch_trains_every_part(trainable, prompts) -> None:
    adapter, model = trainable
    batch = batch_of(prompts)
    loss, figures = adapter.loss(adapter.run(model.train(), None, batch), batch, adapter.counts(model, batch))
    loss.backward()
    assert loss.isfinite()
    assert figures
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_predictions_are_scores_and_boxes_in_parts_of_the_picture(trainable, prompts) -> None:
    adapter, model = trainable
    batch = batch_of(prompts)
    with torch.inference_mode():
        scores, boxes = adapter.predict(model, adapter.run(model, None, batch), batch)
    assert scores.shape[::2] == (2, max(map(len, prompts)))
    assert boxes.shape == (*scores.shape[:2], 4)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert not scores[1, :, len(prompts[1]) :].any()


def test_shifting_moves_what_scored_the_threshold_to_the_wanted_score(trainable, prompts) -> None:
    adapter, model = trainable
    batch = batch_of(prompts)
    with torch.inference_mode():
        before, _ = adapter.predict(model, adapter.run(model, None, batch), batch)
        best = float(before.max())
        shift = adapter.shift(model, best, (best + 1) / 2)
        after, _ = adapter.predict(model, adapter.run(model, None, batch), batch)
    assert shift > 0
    assert after.max() > before.max()


def test_prompts_are_padded_together(prompts) -> None:
    text = pad_text(prompts)
    assert text["input_ids"].shape == text["token_label"].shape == (2, max(map(len, prompts)))
    assert text["text_mask"].sum(1).tolist() == list(map(len, prompts))
