"""Published toy weights: a state dict of {"toy.colours.weight": ...}."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from models.state_dict_map import fill
from models.tensor_sources import same
from tests.models.toy_family.config import ToyConfig
from tests.models.toy_family.model import Toy


def recognise(names: Collection[str]) -> str | None:
    return "toyshop" if "toy.colours.weight" in names else None


def load(tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None) -> tuple[Toy, ToyConfig, str]:
    vocab_size, embed_dim = tensors["toy.tokens.weight"].shape
    config = ToyConfig(vocab_size, embed_dim)
    with torch.device("meta"):
        model = Toy(config)
    fill(model, tensors, {key: same(f"toy.{key}") for key in model.state_dict()})
    return model, config, "toy-1"
