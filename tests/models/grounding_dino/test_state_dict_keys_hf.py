"""The literal key table of Hugging Face folders."""

import pytest

from models.grounding_dino import state_dict_keys_hf as keys
from tests.models.key_tables import CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_table_is_consistent(check):
    check(keys)
