import math

import pytest
import torch

from models.clip.config import ClipConfig
from models.clip.model import Clip
from tests.models.small_clip import AVERAGED, RESNET, VIT, random_model

SIZES = [(VIT, 8), (RESNET, 64), (AVERAGED, 64)]


@pytest.mark.parametrize(("config", "side"), SIZES)
def test_every_image_is_compared_with_every_text(config: ClipConfig, side: int) -> None:
    output = Clip(config)(torch.randn(2, 3, side, side), torch.tensor([[1, 2, 39], [1, 39, 0], [1, 5, 39]]))
    assert output.logits_per_image.shape == (2, 3)
    torch.testing.assert_close(output.logits_per_image, output.logits_per_text.T)
    cosine = output.image_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_image, cosine / 0.07)
    torch.testing.assert_close(output.image_embeds.norm(dim=-1), torch.ones(2))


def test_what_follows_the_end_token_does_not_matter() -> None:
    model = random_model(VIT)
    short = model.encode_text(torch.tensor([[1, 7, 39]]))
    padded = model.encode_text(torch.tensor([[1, 7, 39, 0, 0, 0]]))
    other = model.encode_text(torch.tensor([[1, 7, 39, 5, 3, 11]]))
    torch.testing.assert_close(short, padded)
    torch.testing.assert_close(short, other)


def test_what_precedes_the_end_token_matters() -> None:
    model = random_model(VIT)
    first, second = model.encode_text(torch.tensor([[1, 7, 39], [1, 8, 39]]))
    assert not torch.allclose(first, second, atol=1e-4)


def test_average_pool_takes_images_of_any_size() -> None:
    model = random_model(AVERAGED)
    assert model.encode_image(torch.randn(1, 3, 96, 160)).shape == (1, 12)


def test_wrong_image_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 9, 8\).*8 px"):
        Clip(VIT).encode_image(torch.randn(1, 3, 9, 8))


@pytest.mark.parametrize("config", [VIT, RESNET, AVERAGED])
def test_every_parameter_receives_a_gradient(config: ClipConfig) -> None:
    torch.manual_seed(0)
    model = Clip(config).train()
    for block in model.modules():  # the residual blocks start as their shortcuts; give them something to do
        if hasattr(block, "norm3"):
            torch.nn.init.ones_(block.norm3.weight)
    side = config.image.image_size
    output = model(torch.randn(4, 3, side, side), torch.randint(1, 40, (4, 9)))
    torch.nn.functional.cross_entropy(output.logits_per_image, torch.arange(4)).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


def test_scale_starts_at_the_papers_temperature() -> None:
    assert math.isclose(Clip(VIT).logit_scale.item(), math.log(1 / 0.07), rel_tol=1e-6)
