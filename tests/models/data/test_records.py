import dataclasses

import numpy as np
import pytest

from models.data.images import PictureBytes
from models.data.records import CaptionRecord, DetectionRecord, RecordGenerator


class Generator:
    name = "generated"

    def generate(self, number: int, *, seed: int, total: float) -> CaptionRecord:
        return CaptionRecord(PictureBytes(b"", ""), (str(number),), "here")


def test_a_generator_is_known_by_its_method():
    assert isinstance(Generator(), RecordGenerator)
    assert not isinstance([], RecordGenerator)


def test_a_record_cannot_be_changed():
    record = DetectionRecord(PictureBytes(b"", ""), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (), "here")
    assert not record.finished
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.where = "there"
