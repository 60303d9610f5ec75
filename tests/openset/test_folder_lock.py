import pytest

from openset.folder_lock import locked


def test_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    first, second = (locked(tmp_path, ValueError("busy")) for _ in range(2))
    with first, pytest.raises(ValueError, match="busy"), second:
        pytest.fail("both write")
    with locked(tmp_path, ValueError("busy")):
        pass


def test_error_of_the_writer_passes_and_ends_the_lock(tmp_path):
    with pytest.raises(BlockingIOError, match="its own"), locked(tmp_path, ValueError("busy")):
        raise BlockingIOError("its own")
    with locked(tmp_path, ValueError("busy")):
        pass
