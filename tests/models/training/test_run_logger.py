import json
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from models.training.run_logger import CURVE, EVENTS, RunLogger


def events(folder: Path) -> list[tuple[int, str, float]]:
    """Step, name and value of every scalar that TensorBoard would show."""
    found = []
    for file in sorted((folder / EVENTS).glob("events.*")):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], "little")
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[12 + length + 4 :]
    return found


def record(folder: Path, *, step: int, rows: dict[int, dict[str, float]]) -> None:
    recorder = RunLogger(folder, step=step, steps=9, tensorboard=True)
    for at, figures in rows.items():
        recorder.advance(1.0)
        recorder.write(at, figures)
    recorder.close()


def test_figures_stand_in_the_curve_and_in_tensorboards_events(tmp_path: Path):
    record(tmp_path, step=0, rows={1: {"loss": 2.5}, 2: {"loss": 1.25, "norm": float("inf")}})
    assert [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()] == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 1.25},
    ]
    assert events(tmp_path) == [(1, "loss", 2.5), (2, "loss", 1.25)]


def test_a_resumed_run_drops_what_came_after_its_checkpoint_and_a_line_cut_off(tmp_path: Path):
    record(tmp_path, step=0, rows={step: {"loss": 1.0} for step in (1, 2, 3)})
    with (tmp_path / CURVE).open("a") as file:
        file.write('{"step": 4, "lo')
    record(tmp_path, step=2, rows={3: {"loss": 0.5}})
    rows = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_new_run_begins_a_new_curve(tmp_path: Path):
    (tmp_path / CURVE).write_text('{"step": 7, "loss": 1.0}\n')
    record(tmp_path, step=0, rows={1: {"loss": 0.5}})
    assert len((tmp_path / CURVE).read_text().splitlines()) == 1
