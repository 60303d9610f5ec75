import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.images import DataError
from models.data.records import CaptionRecord, DetectionRecord, GroundingRecord
from models.data.shards import ShardStream, shard_files
from tests.models.data import annotated_sets as sets


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> ShardStream:
    return ShardStream(sets.shards(tmp_path_factory.mktemp("shards")), buffer=4)


def keys(stream: ShardStream, count: int, *, part: int = 0, parts: int = 1, skip: int = 0, seed: int = 0) -> list[str]:
    records = islice(stream.read(seed=seed, part=part, parts=parts, skip=skip), count)
    return [record.where for record in records if isinstance(record, CaptionRecord)]


def test_every_sample_comes_once_an_epoch_in_a_new_order(stream: ShardStream):
    found = keys(stream, 36)
    epochs = [found[start : start + 12] for start in (0, 12, 24)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert keys(stream, 36) == found
    assert keys(stream, 36, seed=1) != found


def test_the_buffer_mixes_samples_of_a_shard(tmp_path: Path):
    files = sets.shards(tmp_path, (10,))
    in_order = keys(ShardStream(files, buffer=1), 10)
    assert in_order == sorted(in_order)
    assert keys(ShardStream(files, buffer=5), 10) != in_order


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_readers_share_the_samples_without_overlap(stream: ShardStream, parts: int):
    counts = [stream._count(0, 0, part, parts) for part in range(parts)]
    found = [key for part, count in enumerate(counts) for key in keys(stream, count, part=part, parts=parts)]
    assert len(found) == len(set(found)) == 12


@settings(max_examples=25, deadline=None)
@given(skip=st.integers(0, 40), parts=st.sampled_from([1, 2, 5]))
def test_a_skipped_beginning_leaves_the_rest_as_it_was(stream: ShardStream, skip: int, parts: int):
    for part in range(parts):
        unbroken = keys(stream, skip + 6, part=part, parts=parts)
        assert keys(stream, 6, part=part, parts=parts, skip=skip) == unbroken[skip:]


def test_samples_are_pictures_with_their_captions(stream: ShardStream):
    record = next(stream.read(seed=0, part=0, parts=1, skip=0))
    assert isinstance(record, CaptionRecord)
    assert record.picture.open().size == (80, 60)
    assert record.captions[0].endswith("square")


def test_json_members_hold_captions_detections_or_groundings(tmp_path: Path):
    grounding = {"grounding": sets.grounding_line(1)["grounding"]}
    detection = {"detection": {"instances": [{"bbox": [0, 0, 9, 9], "label": 2}]}}
    image = sets.png(sets.picture(1)[0])
    extra = {
        f"a/{place}.{suffix}": data
        for place, entry in enumerate(({"caption": "two squares"}, grounding, detection))
        for suffix, data in (("jpg", image), ("json", json.dumps(entry).encode()))
    }
    sets.shard(tmp_path / "a.tar", range(0), extra=extra)
    labels = {str(place): name for place, name in enumerate(sets.NAMES)}
    stream = ShardStream((tmp_path / "a.tar",), buffer=1, labels=labels)
    caption, grounded, detected = islice(stream.read(seed=0, part=0, parts=1, skip=0), 3)
    assert isinstance(caption, CaptionRecord)
    assert caption.captions == ("two squares",)
    assert isinstance(grounded, GroundingRecord)
    assert isinstance(detected, DetectionRecord)
    assert [detected.names[label] for label in detected.labels] == ["blue"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"x/bad.txt": b"lonely"}, "x/bad has no picture; it has"),
        ({"x/bad.jpg": b"...", "x/bad.txt": b"\xff"}, r"x/bad\.txt is no UTF-8"),
        ({"x/bad.jpg": b"...", "x/bad.txt": b" "}, r"x/bad\.txt: the caption is empty"),
        ({"x/bad.jpg": b"...", "x/bad.json": b"{"}, r"x/bad\.json is no JSON"),
        ({"x/bad.jpg": b"..."}, "x/bad has no caption, detection or grounding"),
    ],
)
def test_a_faulty_sample_comes_as_an_error_that_names_its_member(tmp_path: Path, extra: dict[str, bytes], message: str):
    sets.shard(tmp_path / "a.tar", range(2), extra=extra)
    found = list(islice(ShardStream((tmp_path / "a.tar",), buffer=1).read(seed=0, part=0, parts=1, skip=0), 3))
    assert isinstance(found[2], DataError)
    with pytest.raises(DataError, match=rf"a\.tar: {message}"):
        raise found[2]


def test_damaged_compressed_and_missing_shards_are_named(tmp_path: Path):
    (whole,) = sets.shards(tmp_path, (3,))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole.read_bytes()))
    for name in ("cut.tar", "packed.tar"):
        stream = ShardStream((tmp_path / name,), buffer=1)
        with pytest.raises(DataError, match=name):
            next(stream.read(seed=0, part=0, parts=1, skip=0))
    with pytest.raises(DataError, match="does not exist"):
        ShardStream((tmp_path / "none.tar",))


def test_a_reader_for_whom_nothing_is_left_says_so(tmp_path: Path):
    stream = ShardStream(sets.shards(tmp_path, (2,)))
    with pytest.raises(DataError, match="there is no sample for reader 3 of 3"):
        next(stream.read(seed=0, part=2, parts=3, skip=0))


def test_shards_are_named_by_patterns(tmp_path: Path):
    files = sets.shards(tmp_path)
    assert shard_files("{000..002}.tar", tmp_path) == shard_files("*.tar", tmp_path) == files
    assert shard_files(["000.tar", "{001..002}.tar"], tmp_path) == files
    with pytest.raises(DataError, match=r"no shard matches '\*\.gz'"):
        shard_files("*.gz", tmp_path)
    with pytest.raises(DataError, match="has no range"):
        shard_files("{a,b}.tar", tmp_path)
