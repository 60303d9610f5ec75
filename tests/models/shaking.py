"""Random weights for small models."""

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def shaken(model: Model) -> Model:
    """The model in eval mode, none of its weights a constant any more, so that every part has a say."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
