import logging
import pickle

import pytest

from models.data.faults import Faults, RecordFault, counts_text, kind_of_fault
from models.data.images import BrokenPicture, DataError


def positive(number: int) -> int:
    if number < 0:
        raise RecordFault(f"number {number}", kind="sign")
    if number == 7:
        raise BrokenPicture("seven")
    return number * 2


def test_the_first_fault_is_raised():
    with pytest.raises(RecordFault, match="number -3"):
        list(Faults("set", skip=False).kept([1, -3, -4], positive))


def test_faults_are_left_out_and_counted_by_kind(caplog: pytest.LogCaptureFixture):
    faults = Faults("set", skip=True)
    assert list(faults.kept([1, -3, 2, 7, -4], positive)) == [2, 4]
    assert (faults.total, dict(faults.counts)) == (3, {"sign": 2, "picture": 1})
    with caplog.at_level(logging.WARNING):
        faults.log()
    assert "set: 3 faulty entries are left out (sign 2, picture 1), the first: number -3" in caplog.text
    assert str(faults.no_record()) == "set has no record without a fault; the first fault: number -3"
    assert counts_text({}) == ""


def test_entries_that_share_a_key_are_faulty_all_of_them():
    def repeated(text: str, times: str) -> RecordFault:
        return RecordFault(f"{text} occurs {times}", kind="text")

    entries = ["a", "B", "b", "", "c", "C", "c", ""]
    with pytest.raises(RecordFault, match=r"^B occurs twice"):
        Faults("set", skip=False).unique(entries, lambda text: text.lower() or None, repeated)
    faults = Faults("set", skip=True)
    assert faults.unique(entries, lambda text: text.lower() or None, repeated) == ["a", "", ""]
    assert dict(faults.counts) == {"text": 5}
    assert str(repeated("c", "3 times")) == "c occurs 3 times"


def test_a_fault_passes_from_process_to_process_whole():
    fault = pickle.loads(pickle.dumps(RecordFault("number -3", kind="sign")))
    assert (str(fault), fault.kind) == ("number -3", "sign")
    assert kind_of_fault(DataError("x")) == "record"
