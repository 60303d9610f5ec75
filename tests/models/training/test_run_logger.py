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


def test_labels_of_any_spelling_are_named_in_the_events_without_a_word_in_the_log(tmp_path: Path, caplog):
    record(tmp_path, step=0, rows={1: {"ap/rag doll (old)": 0.5, "ap/Äpfel": 0.25}})
    assert events(tmp_path) == [(1, "ap/rag_doll__old_", 0.5), (1, "ap/Äpfel", 0.25)]
    assert not [message for message in caplog.messages if "illegal" in message]


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


def test_line_of_the_log_tells_progress_the_loss_and_the_time_to_go(tmp_path: Path, caplog, monkeypatch):
    clock = iter([100.0, 160.0, 160.0, 100.0 + 7500, 100.0 + 7500])
    monkeypatch.setattr("models.training.run_logger.time", type("Clock", (), {"monotonic": lambda: next(clock)}))
    with caplog.at_level("INFO"):
        logger = RunLogger(tmp_path, step=100, steps=2000, tensorboard=False, steps_per_epoch=50.0)
        logger.write(200, {"loss": 1.23456, "norm": 3.0, "box": 0.5, "rate": 1e-4, "seconds_per_step": 0.6})
        figures = {f"ap/{label}": value for label, value in zip("abcdefghij", range(10, 0, -1), strict=True)}
        logger.write(1000, {"validation_loss": 2.0, "validation_ap50": 0.5, "any_label_ap50": 0.6, **figures})
        logger.close()
    assert caplog.messages == [
        "epoch 4.0, step 200 of 2000 (10%), loss 1.235, rate 0.0001, seconds per step 0.6, 1 min 00 s gone,"
        " 18 min 00 s to go",
        "validation: epoch 20.0, step 1000 of 2000 (50%), loss 2, ap50 0.5,"
        " AP of a 10.00, b 9.00, c 8.00, d 7.00, g 4.00, h 3.00, i 2.00, j 1.00",
    ]
    assert json.loads((tmp_path / CURVE).read_text().splitlines()[0])["box"] == 0.5


def test_run_on_pictures_without_end_has_no_epoch(tmp_path: Path, caplog):
    with caplog.at_level("INFO"):
        logger = RunLogger(tmp_path, step=0, steps=10, tensorboard=False)
        logger.write(5, {"validation_top1": 0.25, "validation_top5": 0.5})
        logger.close()
    assert caplog.messages == ["validation: step 5 of 10 (50%), top1 0.25, top5 0.5"]


def test_run_without_a_bar_shows_a_sign_of_life_between_its_lines(tmp_path: Path, caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("models.training.run_logger.time", type("Clock", (), {"monotonic": lambda: clock[0]}))
    with caplog.at_level("INFO"):
        logger = RunLogger(tmp_path, step=0, steps=8, tensorboard=False)
        logger._bar.disable = True  # as where the output is a file
        for _ in range(4):
            clock[0] += 20
            logger.advance(2.5)
        logger.close()
    assert caplog.messages == [
        "step 2 of 8 (25%), loss 2.5, 40 s gone, 2 min 00 s to go",
        "step 4 of 8 (50%), loss 2.5, 1 min 20 s gone, 1 min 20 s to go",
    ]
    assert not (tmp_path / CURVE).exists()
