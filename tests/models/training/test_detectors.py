"""Each family is taught and asked through the same door."""

import pytest
import torch
from torch import nn

from models.training.detectors import Detector, GlipDetector, GroundingDinoDetector, Lesson, padded
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
def taught(request: pytest.FixtureRequest) -> tuple[Detector, nn.Module]:
    if request.param == "glip":
        return GlipDetector(), small_glip.random_model(small_glip.RESNET)
    return GroundingDinoDetector(), small_grounding_dino.random_model(small_grounding_dino.RESNET)


def lesson(prompts) -> Lesson:
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[:, : SIZE[0], : SIZE[1]] = True
    tokens = max(map(len, prompts))
    positive = torch.zeros(1, tokens, dtype=torch.bool)
    positive[0, 1] = True
    return Lesson(
        pixels=torch.randn(2, 3, 64, 96) * mask[:, None],
        mask=mask,
        sizes=[SIZE, SIZE],
        text=padded(prompts),
        boxes_xyxy=[torch.tensor([[10.0, 12.0, 50.0, 44.0]]), torch.zeros(0, 4)],
        positive=[positive, torch.zeros(0, tokens, dtype=torch.bool)],
    )


def test_a_lesson_teaches_every_trained_part(taught, prompts) -> None:
    detector, model = taught
    batch = lesson(prompts)
    loss, figures = detector.loss(detector.run(model.train(), None, batch), batch, detector.counts(model, batch))
    loss.backward()
    assert loss.isfinite()
    assert figures
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_answers_are_scores_and_boxes_in_parts_of_the_picture(taught, prompts) -> None:
    detector, model = taught
    batch = lesson(prompts)
    with torch.inference_mode():
        scores, boxes = detector.answer(model, batch.pixels, batch.mask, prompts)
    assert scores.shape[::2] == (2, max(map(len, prompts)))
    assert boxes.shape == (*scores.shape[:2], 4)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert not scores[1, :, len(prompts[1]) :].any()


def test_shifting_moves_what_scored_the_threshold_to_the_wanted_score(taught, prompts) -> None:
    detector, model = taught
    batch = lesson(prompts)
    with torch.inference_mode():
        before, _ = detector.answer(model, batch.pixels, batch.mask, prompts)
        best = float(before.max())
        shift = detector.shift(model, best, (best + 1) / 2)
        after, _ = detector.answer(model, batch.pixels, batch.mask, prompts)
    assert shift > 0
    assert after.max() > before.max()


def test_slow_parts_are_parts_of_the_model(taught) -> None:
    detector, model = taught
    names = [name for name, _ in model.named_parameters()]
    assert all(any(name.startswith(part) for name in names) for part in detector.slow)


def test_prompts_are_padded_together(prompts) -> None:
    text = padded(prompts)
    assert text["input_ids"].shape == text["token_label"].shape == (2, max(map(len, prompts)))
    assert text["text_mask"].sum(1).tolist() == list(map(len, prompts))
