import math

import pytest
import torch

from models.losses.contrastive import info_nce, top1


def test_info_nce_of_a_square_batch_is_clips_loss():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    pictures = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    texts = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert info_nce(logits, torch.arange(2)).item() == pytest.approx((pictures + texts) / 2, abs=1e-6)


def test_texts_without_a_picture_count_against_pictures_only():
    logits = torch.tensor([[1.0, 0.0, 0.0]])
    # One picture has all of its text's share, so the second axis adds nothing.
    assert info_nce(logits, torch.tensor([0])).item() == pytest.approx(math.log(1 + 2 * math.exp(-1)) / 2, abs=1e-6)


def test_pictures_of_one_text_share_its_target():
    logits = torch.zeros(2, 1)
    # Each picture can only be the one text (loss 0); the text gives each of its two pictures a half (loss log 2).
    assert info_nce(logits, torch.tensor([0, 0])).item() == pytest.approx(math.log(2) / 2, abs=1e-6)


def test_perfect_logits_cost_next_to_nothing():
    assert info_nce(torch.eye(4) * 100, torch.arange(4)).item() < 1e-6


def test_top1_counts_rows_whose_largest_is_the_target():
    assert top1(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0], [0.0, 5.0]]), torch.tensor([0, 1, 1, 1])) == 0.75
