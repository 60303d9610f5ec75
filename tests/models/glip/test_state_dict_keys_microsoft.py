"""The literal key table of Microsoft's files."""

import pytest

from models.glip import state_dict_keys_microsoft as keys
from tests.models.key_tables import CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_table_is_consistent(check):
    check(keys)
