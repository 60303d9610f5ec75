import json

from PIL import Image

from tests.benchmarks.curves import main, read_curve


def written(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_curve_has_the_loss_of_steps_and_the_shares_of_held_out_pictures(tmp_path):
    curve = written(
        tmp_path / "curve.jsonl",
        {"step": 50, "loss": 2.0, "top1": 0.9, "rate": 0.001},
        {"step": 100, "validation_ap50": 0.25, "quiet_threshold": 0.4},
        {"step": 100, "loss": 1.5, "top1": 0.9, "rate": 0.001},
    )
    losses, shares = read_curve(curve)
    assert losses == {"loss": ([50, 100], [2.0, 1.5])}
    assert shares == {"validation ap50": ([100], [0.25])}


def test_runs_are_drawn_side_by_side(tmp_path):
    curves = [f"run{number}={written(tmp_path / f'{number}.jsonl', {'step': 1, 'loss': 1.0})}" for number in range(2)]
    assert main([str(tmp_path / "curves.png"), *curves]) == 0
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (900, 600)
