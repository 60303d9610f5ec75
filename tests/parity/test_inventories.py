"""State-dict key tables against the names and shapes of every known published checkpoint, filled with zeros."""

import pytest
import torch

from models import registry
from tests.parity import containers, golden
from tests.parity.golden import Golden

INVENTORIES = [inventory for family in registry.FAMILIES for inventory in golden.inventories(family)]


def test_every_reference_belongs_to_a_family_here() -> None:
    unknown = sorted({golden.family for golden in golden.all_goldens()} - registry.FAMILIES.keys())
    if unknown:
        pytest.skip(f"references of families that are not here: {', '.join(unknown)}")


@pytest.mark.parametrize("inventory", INVENTORIES, ids=str)
def test_names_and_shapes_fit_completely(inventory: Golden) -> None:
    tensors = {
        name: torch.zeros((), dtype=getattr(torch, str(entry["dtype"]))).expand(tuple(entry["shape"]))
        for name, entry in golden.entries(inventory.inventory).items()
        if inventory.kind != "hf" or "alias_of" not in entry  # safetensors hold a shared tensor once
    }
    weights = registry.FAMILIES[inventory.family].weights
    container = weights.recognise(tensors.keys())
    assert container == {"hf": "huggingface"}.get(inventory.kind, inventory.kind)
    config = None
    if inventory.kind == "hf" and inventory.family == "clip":
        config = containers.clip_hf_config(tensors)
    elif inventory.kind == "hf":
        config = containers.grounding_dino_hf_config(inventory.variant)
    model, _, _ = weights.load(tensors, container, config)
    assert not [name for name, value in model.state_dict().items() if value.is_meta]
