"""Models filled with the reference's synthetic weights; one is kept, since several references share their weights."""

from collections.abc import Callable

import pytest

from models.registry import LoadedCheckpoint
from tests.parity import adapter, golden
from tests.parity.golden import Golden

Loader = Callable[[Golden], LoadedCheckpoint]


@pytest.fixture(scope="session")
def loaded() -> Loader:
    """A function from a reference to its model, read through the registry from a file in the official container."""
    kept: dict[str, LoadedCheckpoint] = {}

    def load(reference: Golden) -> LoadedCheckpoint:
        if reference.inventory not in kept:
            kept.clear()
            weights = golden.synthesise(reference.inventory)
            kept[reference.inventory] = adapter.load(reference.family, reference.kind, reference.variant, weights)
        return kept[reference.inventory]

    return load
