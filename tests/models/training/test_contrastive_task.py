import math

import pytest
import torch

from models.training.contrastive_task import contrast
from models.training.distributed import Processes


class Shared(Processes):
    """The first of two processes, whose other holds the given rows."""

    def gathered(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows.detach(), OTHERS[rows.requires_grad]]


OTHERS = {True: torch.tensor([[0.0, 1.0]]), False: torch.tensor([[0.6, 0.8]])}  # pictures have a gradient here


def test_pairs_of_one_process_by_hand():
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    loss, figures = contrast(images, texts, torch.tensor(2.0), Processes())
    # Logits 2, 1.2 / 0, 1.6.
    rows = (math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))) / 2
    columns = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-0.4))) / 2
    assert loss.item() == pytest.approx((rows + columns) / 2, rel=1e-5)
    assert figures == pytest.approx({"loss": loss.item(), "top1": 1.0, "scale": 2.0})


def test_a_process_contrasts_its_pairs_with_those_of_others_and_counts_its_share():
    image, text = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[1.0, 0.0]])
    scale = torch.tensor(2.0, requires_grad=True)
    loss, figures = contrast(image, text, scale, Shared(count=2))
    whole_images = torch.cat([image.detach(), OTHERS[True]]).requires_grad_()
    whole_scale = torch.tensor(2.0, requires_grad=True)
    whole, _ = contrast(whole_images, torch.cat([text, OTHERS[False]]), whole_scale, Processes())
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert figures["loss"] == pytest.approx(whole.item() / 2)
    loss.backward()
    whole.backward()
    torch.testing.assert_close(image.grad, whole_images.grad[:1])
    assert scale.grad.item() == pytest.approx(whole_scale.grad.item() / 2)
