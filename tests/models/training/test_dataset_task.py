"""The parts of a task that all families share: batches, held-out batches, state."""

from typing import Any

import pytest
import torch
from torch import nn

from models.data.datasets import WeightedSet
from models.data.images import PictureBytes
from models.data.loader import BatchLayout, BatchStream
from models.data.records import CaptionRecord, Record
from models.training.dataset_task import DatasetTask, TaskData
from models.training.distributed import ALONE


class Numbers:
    name = "numbers"

    def generate(self, number: int, *, seed: int, total: float) -> Record:
        return CaptionRecord(PictureBytes(b"", ""), ("",), str(number))


def stream(first: int = 0) -> BatchStream[Any, Any]:
    def collate(examples: list[float]) -> torch.Tensor:
        return torch.tensor(examples)

    sets = [WeightedSet(Numbers(), 1.0, False)]
    return BatchStream(sets, lambda record, _: float(record.where), collate, BatchLayout(2, 0), seed=0, first=first)


@pytest.fixture
def task() -> DatasetTask[torch.Tensor]:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    data = TaskData(stream(), stream(50), held_out_batches=2)
    return DatasetTask(model, model, data, ALONE, [model[1]])


def test_batches_come_in_order_and_go_on_from_a_state(task: DatasetTask[torch.Tensor]):
    assert [batch.tolist() for batch in task.batches(2)] == [[0, 1], [2, 3]]
    state = task.state()
    assert [batch.tolist() for batch in task.batches(1)] == [[4, 5]]
    task.restore(state)
    assert [batch.tolist() for batch in task.batches(1)] == [[4, 5]]


def test_held_out_batches_are_always_the_same(task: DatasetTask[torch.Tensor]):
    first, second = ([batch.tolist() for batch in task.held_out()] for _ in range(2))
    assert first == second == [[100, 101], [102, 103]]


def test_frozen_parts_stay_in_evaluation_mode(task: DatasetTask[torch.Tensor]):
    task.module.train()
    task.batches(1)
    assert [part.training for part in task.module.children()] == [True, False]


def test_at_the_end_pictures_left_out_are_told(task: DatasetTask[torch.Tensor]):
    task.batches(1)
    assert task.finish(task.model) == {"pictures_left_out": 0.0}
