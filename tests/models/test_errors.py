"""Errors of loading: one base class, all keys kept, a bounded message."""

import pytest

from models import (
    CheckpointError,
    UnknownCheckpoint,
    UnreadableCheckpoint,
    UnsafeCheckpoint,
    WeightsDoNotFit,
    listed,
)


@pytest.mark.parametrize("error", [UnknownCheckpoint, UnreadableCheckpoint, UnsafeCheckpoint, WeightsDoNotFit])
def test_every_error_is_a_checkpoint_error_and_a_value_error(error):
    assert issubclass(error, CheckpointError)
    assert issubclass(error, ValueError)


def test_every_kind_of_fault_is_named_with_the_file():
    error = WeightsDoNotFit(missing=["a", "b"], left_over=["c"], path="x.pt")
    assert (error.missing, error.left_over, error.wrong) == (("a", "b"), ("c",), ())
    assert str(error).startswith("x.pt does not fit the model and was not loaded")
    assert "2 missing: a, b; 1 left over: c" in str(error)
    assert "wrong shape" not in str(error)


def test_long_lists_are_cut_and_counted():
    assert listed([str(number) for number in range(42)]).endswith("39, and 2 more")
    assert listed(["a", "b"]) == "a, b"


def test_what_a_terminal_would_obey_is_escaped():
    error = WeightsDoNotFit(missing=["a\x1b[2J\nb", "\ud83d"], path="x.pt")
    assert "2 missing: a\\x1b[2J\\nb, \\ud83d" in str(error)
    assert str(UnknownCheckpoint("Gr\u00f6\u00dfe 7")) == "Gr\u00f6\u00dfe 7"


def test_long_names_are_cut():
    assert listed(["x" * 1000]) == "x" * 200 + "…"
