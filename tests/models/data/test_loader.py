"""Batches are the same whoever reads them, and after a stop."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from models.data.datasets import WeightedSet
from models.data.images import DataError, PictureBytes
from models.data.loader import BatchLayout, BatchLoader, BatchStream, iterate_batches
from models.data.records import CaptionRecord, Record
from tests.models.data import annotated_sets as sets


def named(record: Record, rng: np.random.Generator) -> str:
    """An example: which record it is, and the draw of its own generator."""
    assert isinstance(record, CaptionRecord)
    return f"{Path(record.where).name} {rng.random():.6f}"


class Numbered:
    """A generator of records that say which one they are, and how far the run is."""

    name = "numbers"

    def generate(self, number: int, *, seed: int, total: float) -> Record:
        return CaptionRecord(PictureBytes(b"", ""), ("",), f"{number}-{total:g}")


def odd(record: Record, rng: np.random.Generator) -> str:
    """As `named`, for a set whose pictures of even number are damaged."""
    if int(Path(record.where).stem) % 2 == 0:
        raise DataError(f"{record.where} is damaged")
    return named(record, rng)


def together(examples: list[str]) -> list[str]:
    return examples


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[WeightedSet, ...]:
    folder = tmp_path_factory.mktemp("mixed")
    sets.captions(folder / "captions", 5)
    sets.shards(folder / "shards", (4, 3, 5, 2))
    captions = {"format": "captions", "path": "captions", "weight": 1}
    return sets.opened([captions, {"format": "shards", "shards": "shards/*.tar", "weight": 2, "buffer": 3}], folder)


def stream(
    opened: tuple[WeightedSet, ...], layout: BatchLayout, *, first: int = 0, rank: int = 0, length: int = 0
) -> BatchStream:
    return BatchStream(opened, named, together, layout, seed=0, first=first, rank=rank, length=length)


def read(opened: tuple[WeightedSet, ...], layout: BatchLayout, count: int, *, first: int = 0, rank: int = 0) -> list:
    made = iterate_batches(stream(opened, layout, first=first, rank=rank, length=9))
    return [one.batch for one in islice(made, count)]


@pytest.mark.parametrize("first", [1, 2, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_reading_on_gives_the_batches_that_would_have_come(opened: tuple[WeightedSet, ...], workers: int, first: int):
    layout = BatchLayout(3, workers)
    assert read(opened, layout, 4, first=first) == read(opened, layout, first + 4)[first:]


def test_files_are_read_alike_by_any_number_of_workers_and_processes(opened: tuple[WeightedSet, ...]):
    files = opened[:1]
    alone = [name for batch in read(files, BatchLayout(4, 0), 3) for name in batch]
    assert [name for batch in read(files, BatchLayout(4, 2), 3) for name in batch] == alone
    pairs = [read(files, BatchLayout(2, 0, processes=2), 3, rank=rank) for rank in (0, 1)]
    assert [name for both in zip(*pairs, strict=True) for batch in both for name in batch] == alone


GENERATED = (WeightedSet(Numbered(), 1.0, False),)


def test_generated_records_are_the_same_for_any_number_of_workers_and_processes():
    alone = [name for batch in read(GENERATED, BatchLayout(4, 0), 6) for name in batch]
    assert [name.split()[0] for name in alone] == [f"{number}-36" for number in range(24)]
    for workers in (1, 2):
        assert [name for batch in read(GENERATED, BatchLayout(4, workers), 6) for name in batch] == alone
    pairs = [read(GENERATED, BatchLayout(2, 2, processes=2), 6, rank=rank) for rank in (0, 1)]
    assert [name for both in zip(*pairs, strict=True) for batch in both for name in batch] == alone
    assert read(GENERATED, BatchLayout(4, 2), 2, first=4) == [alone[16:20], alone[20:24]]


def test_a_generator_in_a_mixture_knows_how_many_of_its_records_the_run_has(opened: tuple[WeightedSet, ...]):
    mixed = (*opened[:1], WeightedSet(Numbered(), 3.0, False))
    names = [name.split()[0] for batch in read(mixed, BatchLayout(8, 0), 3) for name in batch if ".png" not in name]
    assert names == [f"{number}-54" for number in range(len(names))]  # three quarters of the run's 72


def test_readers_of_shards_take_different_samples(opened: tuple[WeightedSet, ...]):
    layout = BatchLayout(1, 2, processes=2)
    found = [name.split()[0] for rank in (0, 1) for batch in read(opened[1:], layout, 4, rank=rank) for name in batch]
    assert len(set(found)) > 4
    # Four readers, a shard each: none of another's samples before their own are through.
    assert len(set(found[:2] + found[4:6])) == 4


def test_sets_come_as_often_as_they_weigh(opened: tuple[WeightedSet, ...]):
    found = [name for batch in read(opened, BatchLayout(10, 0), 60) for name in batch]
    share = sum(".png" in name for name in found) / len(found)
    assert share == pytest.approx(1 / 3, abs=0.05)


def test_an_example_draws_from_a_generator_of_its_own(opened: tuple[WeightedSet, ...]):
    draws = [name.split()[1] for batch in read(opened, BatchLayout(5, 0), 4) for name in batch]
    assert len(set(draws)) == len(draws)


def test_faulty_records_are_left_out_and_told_or_stop_the_run(tmp_path: Path):
    folder = sets.captions(tmp_path / "captions", 6)
    for faulty in ("skip", "refuse"):
        opened = sets.opened([{"format": "captions", "path": "captions", "faulty": faulty}], tmp_path)
        made = iterate_batches(BatchStream(opened, odd, together, BatchLayout(6, 0), seed=0))
        if faulty == "refuse":
            with pytest.raises(DataError, match=r"\.png is damaged"):
                next(made)
            continue
        fed = next(made)
        assert len(fed.batch) == len(fed.skipped) == 3
        kind, reason = fed.skipped[0]
        assert (kind, str(folder) in reason) == ("record", True)


def test_pictures_left_out_are_counted_by_kind_over_a_resumed_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = sets.captions(tmp_path / "captions", 6)
    (folder / "2.png").write_bytes(b"no picture")
    opened = sets.opened([{"format": "captions", "path": "captions", "faulty": "skip"}], tmp_path)

    def size(record: Record, rng: np.random.Generator) -> str:
        return str(record.picture.open().size)

    made = BatchStream(opened, size, together, BatchLayout(6, 0), seed=0)
    first, second = BatchLoader(made), BatchLoader(made)
    assert len(first.next()) == 5
    second.restore(first.state())
    second.next()
    second.close()
    assert second.skipped == 2
    assert "left out in all: 2 (picture 2)" in caplog.text


def test_a_workers_error_is_told_without_its_traceback(tmp_path: Path):
    sets.captions(tmp_path / "captions", 1)
    opened = sets.opened([{"format": "captions", "path": "captions"}], tmp_path)
    with pytest.raises(DataError, match=r"^\S+0\.png is damaged$"):
        next(iterate_batches(BatchStream(opened, odd, together, BatchLayout(1, 1), seed=0)))


def test_a_batch_of_faulty_records_alone_stops_the_run(tmp_path: Path):
    folder = sets.captions(tmp_path / "captions", 1)
    opened = sets.opened([{"format": "captions", "path": "captions", "faulty": "skip"}], tmp_path)
    with pytest.raises(DataError, match=r"all 2 records of a batch are faulty.*0\.png is damaged"):
        next(iterate_batches(BatchStream(opened, odd, together, BatchLayout(2, 0), seed=0)))
    assert folder.is_dir()


def test_a_loader_goes_on_from_its_state_and_not_with_another_layout(opened: tuple[WeightedSet, ...]):
    loader = BatchLoader(stream(opened, BatchLayout(2, 0)))
    found = [loader.next() for _ in range(5)]
    again = BatchLoader(stream(opened, BatchLayout(2, 0)))
    again.restore({**loader.state(), "count": 3})
    assert [again.next() for _ in range(2)] == found[3:]
    with pytest.raises(ValueError, match="workers = 0, now it is 2"):
        BatchLoader(stream(opened, BatchLayout(2, 2))).restore(loader.state())
