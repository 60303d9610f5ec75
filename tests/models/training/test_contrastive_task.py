import math

import pytest
import torch

from models.losses.contrastive import info_nce
from models.training.contrastive_task import best_logit_scale, contrast
from models.training.distributed import ALONE, ProcessGroup


class Shared(ProcessGroup):
    """The first of two processes, whose other holds the given rows."""

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows.detach(), OTHERS[rows.requires_grad]]


OTHERS = {True: torch.tensor([[0.0, 1.0]]), False: torch.tensor([[0.6, 0.8]])}  # pictures have a gradient here


def test_pairs_of_one_process_by_hand():
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    loss, figures = contrast(images, texts, torch.tensor(2.0), ALONE)
    # Logits 2, 1.2 / 0, 1.6.
    rows = (math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))) / 2
    columns = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-0.4))) / 2
    assert loss.item() == pytest.approx((rows + columns) / 2, rel=1e-5)
    assert figures == pytest.approx({"loss": loss.item(), "top1": 1.0, "scale": 2.0})


def test_a_process_contrasts_its_pairs_with_those_of_others_and_counts_its_share():
    image, text = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[1.0, 0.0]])
    scale = torch.tensor(2.0, requires_grad=True)
    loss, figures = contrast(image, text, scale, Shared(size=2))
    whole_images = torch.cat([image.detach(), OTHERS[True]]).requires_grad_()
    whole_scale = torch.tensor(2.0, requires_grad=True)
    whole, _ = contrast(whole_images, torch.cat([text, OTHERS[False]]), whole_scale, ALONE)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert figures["loss"] == pytest.approx(whole.item() / 2)
    loss.backward()
    whole.backward()
    torch.testing.assert_close(image.grad, whole_images.grad[:1])
    assert scale.grad.item() == pytest.approx(whole_scale.grad.item() / 2)


def test_a_picture_of_a_class_is_contrasted_with_the_name_of_every_class():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    captions, known = torch.tensor([[0.6, 0.8]]), torch.eye(2)
    keys = torch.tensor([1, -5]), torch.tensor([-5])  # the first shows class 1, the second has the caption
    loss, figures = contrast(images, captions, torch.tensor(1.0), ALONE, keys=keys, known=known)
    logits = torch.tensor([[0.6, 1.0, 0.0], [0.8, 0.0, 1.0]])  # caption, class 0, class 1
    assert loss.item() == pytest.approx(info_nce(logits, torch.tensor([2, 0])).item())
    assert figures["top1"] == 0.0
    names = contrast(
        images, torch.cat([captions, known]), torch.tensor(1.0), ALONE, keys=(keys[0], torch.tensor([-5, 0, 1]))
    )
    assert names[0].item() == pytest.approx(loss.item())


def test_smoothing_spreads_a_pictures_target_over_all_texts():
    images, texts = torch.eye(2), torch.eye(2)
    plain, smooth = (contrast(images, texts, torch.tensor(9.0), ALONE, smoothing=share)[0] for share in (0.0, 0.2))
    assert smooth > plain + 0.1


def test_the_scale_recovers_the_confidence_that_fits():
    torch.manual_seed(0)
    cosines = torch.rand(4000, 3) * 2 - 1
    targets = torch.distributions.Categorical(logits=cosines * 8.0).sample()
    assert best_logit_scale(cosines, targets) == pytest.approx(8.0, rel=0.1)
